// The model that a smaller one learns from.
#pragma once

#include "model/model.h"
#include "text/tokenizer.h"
#include "train/work.h"

namespace choir::train {

// One thread at a time.
class Teacher {
 public:
  // Loads a model directory. Throws Error (input) when its vocabulary is not the tokenizer's, when it does not take the
  // run's sequences, or when a weight is not a finite number.
  Teacher(const std::string& directory, const text::Tokenizer& tokenizer, int sequence_length);
  Teacher(const Teacher&) = delete;
  Teacher& operator=(const Teacher&) = delete;

  const model::Model& model() const { return model_; }
  uint64_t hash() const;  // of its config.json and every byte of its tensors

  // Reads a batch; gives the FLOP of the products, those of the logits of all its rows among them. As it is used: under
  // its own decode rule, without a gradient. A batch's bits depend on nothing else.
  double read(const TokenBatch& batch, base::Threads& threads);
  // Logits (rows,V) of the rows [first, first + rows) of that batch; they stand until the next call.
  tensor::Matrix<const float> logits(int first, int rows, base::Threads& threads);

 private:
  std::string directory_;
  const model::Model model_;
  ForwardWork work_;
  model::Scratch scratch_;
  tensor::Matrix<const float> stream_;  // of the batch, in scratch_
  tensor::Buffer<float> logits_;
};

}  // namespace choir::train
