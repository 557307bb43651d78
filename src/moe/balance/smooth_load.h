// The load of each expert as a differentiable estimate (Shazeer et al., arXiv 1701.06538, appendix A, eq. 8-10): the
// chance that a token names the expert if the noise of that one score were drawn again, summed over the tokens.
#pragma once

#include "moe/balance/load.h"

namespace choir::moe {

// Of the score noisy and the proposal top_k, under the training rule. [E]
std::vector<double> smooth_load(const Context& context, const Routing& routing);

// From the gradient by the load [E]. What an expert must exceed is another's score with its noise, and takes its part
// of the gradient, as in the code of the paper's authors (tensor2tensor, _prob_in_top_k).
void smooth_load_backward(const Context& context, const Routing& routing, const std::vector<double>& dload,
                          const BalanceGradient& gradient);

}  // namespace choir::moe
