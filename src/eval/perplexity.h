// How well a model foresees a text.
#pragma once

#include <optional>

#include "eval/windows.h"

namespace choir::eval {

struct Perplexity {
  int64_t tokens = 0;  // scored
  double nll = 0;      // nats, all tokens together
  int64_t bytes = 0;   // of the scored text; 0 where a document does not say

  double perplexity() const;                    // exp(nll / tokens)
  std::optional<double> bits_per_byte() const;  // nll / bytes / ln 2; none without bytes
};

// Windows of the cut are scored in batches; the result depends neither on these nor on the number of threads. Throws as
// cut_windows and negative_log_likelihoods do.
Perplexity perplexity(const Model& model, std::span<const Document> documents, const Cut& cut, base::Threads& threads);

}  // namespace choir::eval
