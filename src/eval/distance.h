// How far two models are apart on the same text.
#pragma once

#include "eval/perplexity.h"

namespace choir::eval {

struct Distance {
  int64_t tokens = 0;         // scored
  double kl_mean = 0;         // KL(model || other) in nats over the whole vocabulary, mean of the tokens
  double kl_p99 = 0;          // the least value that 99 % of the tokens do not exceed
  double top1_agreement = 0;  // share of tokens where both would choose the same next token
  double perplexity = 0, perplexity_other = 0;
};

// Of the layers of each model.
struct Observers {
  model::Observer model{}, other{};
};

// Both must have the same vocabulary, and both must take the context of the cut; its default is the shorter one's.
// Throws Error (input) otherwise, and as perplexity does.
Distance distance(const Model& model, const Model& other, std::span<const Document> documents, Cut cut,
                  base::Threads& threads, const Observers& observers = {});

}  // namespace choir::eval
