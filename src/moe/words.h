// The registry: every word that an expression may use, score > propose > admit > weigh + balance. A word is one small
// struct in a file of its own; naming it here is all that makes it known.
//
// A struct of each kind has a name, reads its arguments and writes itself out (kName, read, text), and does what the
// other structs of its folder do. Besides that it may have, and router.cc asks for, any of:
//   bool reads_probability()      softmax(z) is computed for it
//   bool reads_cosine(rule)       1 / |w_e| is computed for it
//   bool is_cosine()              false of a score that is no cosine, not even times lengths
//   bool reads_previous()         it needs the scores of the layer before
//   bool shares_matter()          it reads the shares of the whole step
//   scale(width) or (context)     what z was multiplied with, of scores that are cosines: of the tokens themselves, or
//                                 of what they are mapped to
//   select, shift                 change what proposals compare
//   forbid                        takes experts out before anything reads the scores
//   misfit(experts, width)        why the word cannot work on so many experts or channels, or nothing
//   state_size, initial, sums_size, observe, update    numbers that live outside the gradient: read before routing,
//                                 observed in each part of a step, updated once behind it
#pragma once

#include <variant>
#include <vector>

#include "moe/admit/all.h"
#include "moe/admit/fifo.h"
#include "moe/admit/mask.h"
#include "moe/admit/skip.h"
#include "moe/admit/threshold.h"
#include "moe/admit/top_capacity.h"
#include "moe/balance/bias.h"
#include "moe/balance/cv2.h"
#include "moe/balance/entropy.h"
#include "moe/balance/l1_adaptive.h"
#include "moe/balance/load.h"
#include "moe/balance/locality.h"
#include "moe/balance/ortho.h"
#include "moe/balance/quantile.h"
#include "moe/balance/z_loss.h"
#include "moe/propose/all.h"
#include "moe/propose/assignment.h"
#include "moe/propose/groups.h"
#include "moe/propose/positive.h"
#include "moe/propose/second_random.h"
#include "moe/propose/sinkhorn.h"
#include "moe/propose/top_k.h"
#include "moe/propose/top_p.h"
#include "moe/score/dense_cosine.h"
#include "moe/score/grap.h"
#include "moe/score/hash.h"
#include "moe/score/linear.h"
#include "moe/score/noisy.h"
#include "moe/score/none.h"
#include "moe/score/projected_cosine.h"
#include "moe/weigh/chosen.h"
#include "moe/weigh/identity.h"
#include "moe/weigh/norm.h"
#include "moe/weigh/sigmoid.h"
#include "moe/weigh/softmax.h"
#include "moe/weigh/sparse_mixer.h"

namespace choir::moe {

using Score = std::variant<LinearScore, GrapScore, GrapCosineScore, DenseCosineScore, HashScore, NoisyScore,
                           ProjectedCosineScore, NoScore>;
using Propose = std::variant<TopK, ProposeAll, SecondRandom, TopP, Mass, Groups, Positive, Assignment, Sinkhorn>;
using Admit = std::variant<AdmitAll, Fifo, TopCapacity, Skip, Threshold, Mask>;
using Weigh = std::variant<ChosenWeights, SoftmaxWeights, SigmoidWeights, SigmoidNormWeights, SqrtSoftplusNormWeights,
                           IdentityWeights, SparseMixer>;
using Balance = std::variant<LoadBalance, ZLoss, Locality, BiasBalance, Cv2, Entropy, Quantile, L1Adaptive, Ortho>;

// Takes out of a weigh word what stands there for skipped experts alone: over=k and kept.
void divide_as_without_skip(Weigh& weigh);

struct Words {
  Score score;
  Propose propose;
  Admit admit;
  Weigh weigh;
  std::vector<Balance> balance;
};

}  // namespace choir::moe
