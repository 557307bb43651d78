// All that a run learns from and is measured on.
#pragma once

#include <optional>

#include "train/checkpoint.h"
#include "train/evaluation.h"
#include "train/examples.h"

namespace choir::train {

class Corpus {
 public:
  // Reads and encodes the files of the config, and holds out what its evaluation asks for. Throws Error (input), also
  // when a file is to be learnt from and held out.
  Corpus(const TrainConfig& config, const std::string& directory, const text::Tokenizer& tokenizer);

  int64_t tokens() const;  // to learn from
  int64_t bytes() const;   // of these in memory, with what is held out
  uint64_t hash() const;   // of all of them in order
  size_t domains() const { return held_out_.names.size(); }
  size_t examples() const { return examples_.size(); }  // of fine-tuning
  const HeldOut& held_out() const { return held_out_; }

  // The micro-batches of the next step. The place in the data is in `progress`.
  std::vector<TokenBatch> draw(Progress& progress);
  // Throws Error (input) when the place, read from `path`, is not one of this data.
  void check(const Progress& progress, const std::string& path) const;

 private:
  void refuse_shared_files(const std::string& directory) const;
  void read_examples(const std::string& directory, const text::Tokenizer& tokenizer);
  TokenBatch draw_examples(Progress& progress);

  const TrainConfig config_;
  std::vector<DomainTokens> texts_;
  std::vector<Example> examples_;
  ExampleOrder order_{0, 0};
  HeldOut held_out_;
};

// A tokenizer learnt from what the corpus is made of.
std::unique_ptr<const text::Tokenizer> learn_tokenizer(const TrainConfig& config, const std::string& directory);

}  // namespace choir::train
