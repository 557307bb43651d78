// Long texts cut into windows that a model can read, and windows run in batches.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/forward.h"
#include "text/tokenizer.h"

namespace choir::eval {

using model::Model;

// Ids that belong together. `bytes` is the length of the text of all ids but the first; 0 where nobody knows it.
struct Document {
  std::vector<int32_t> ids;
  int64_t bytes = 0;
};

// The token that a text is conditioned on: the tokenizer's <s> or <|begin_of_text|>, else its end of text.
std::optional<int32_t> prefix_token(const text::Tokenizer& tokenizer);

// Any bytes. The ids begin with the prefix token where the tokenizer has one, so that the whole text is scored; special
// tokens written out in the text are ordinary letters.
Document encode_document(const text::Tokenizer& tokenizer, const std::string& text);

// How documents are cut. The default is that of lm-evaluation-harness: disjoint windows; the last token of one is the
// first input of the next, so every token but a document's first is scored exactly once.
struct Cut {
  int context = 0;  // inputs of a window; 0 means 512, or what the model takes if that is less
  int stride = 0;   // tokens from one window to the next, at most context; 0 means context. Smaller strides give every
                    // token but the first ones at least context - stride others to look at, and cost more
};

// Inputs ids[begin, begin + count) of a document. Row i predicts ids[begin + i + 1]; the first `skipped` rows only
// prepare the others.
struct Window {
  int document = 0, begin = 0, count = 0, skipped = 0;
};

// Throws Error (usage) for an unsound cut, Error (input) when no token would be scored.
std::vector<Window> cut_windows(const Model& model, std::span<const Document> documents, const Cut& cut);

// Disjoint windows whose inputs are all tokens, the last ones too: for looking at a model, not for scoring it.
std::vector<Window> cut_inputs(const Model& model, std::span<const Document> documents, const Cut& cut);

// Runs windows batch by batch. One thread at a time; what it was made from must outlive it.
class WindowRunner {
 public:
  WindowRunner(const Model& model, std::span<const Document> documents, base::Threads& threads)
      : model_(model), documents_(documents), threads_(threads) {}

  // As many of the next windows as one batch should hold: at least one.
  std::span<const Window> next_batch(std::span<const Window> rest) const;

  // Logits (N,V) of all rows of a batch, window after window; they stand until the next call.
  tensor::Matrix<float> logits(std::span<const Window> batch, const model::Observer& observer = {});

  // Runs the layers for an observer's sake.
  void observe(std::span<const Window> batch, const model::Observer& observer);

 private:
  void gather(std::span<const Window> batch);

  const Model& model_;
  std::span<const Document> documents_;
  base::Threads& threads_;
  std::vector<int32_t> ids_;
  std::vector<kernels::Sequence> sequences_;
  model::Scratch scratch_;
  tensor::Buffer<float> logits_;
};

// The id that each row of a batch predicts, -1 for the rows that are skipped.
std::vector<int32_t> targets_of(std::span<const Document> documents, std::span<const Window> batch);

// Negative log-likelihood, in nats, of what each window scores. Deterministic for any number of threads. Throws Error
// (input) when the model's logits are not finite.
std::vector<double> negative_log_likelihoods(const Model& model, std::span<const Document> documents,
                                             std::span<const Window> windows, base::Threads& threads,
                                             const model::Observer& observer = {});

}  // namespace choir::eval
