// What a model directory or a GGUF file holds: weights that compute and, where it is there, the tokenizer that belongs
// to them.
#pragma once

#include <memory>
#include <string>

#include "model/model.h"
#include "text/tokenizer.h"

namespace choir::runtime {

// kRun: weights in panels stay where they lie. kRows: they become rows, for whoever does more than products.
// kWrite: rows as safetensors can hold them (Model::savable).
enum class Use { kRun, kRows, kWrite };

// Movable. Threads may share it once tokenizer() has been called.
class Bundle {
 public:
  // Throws Error (input) naming the file when the model is damaged. The tokenizer is not looked at.
  explicit Bundle(const std::string& path, Use use = Use::kRows);

  bool has_tokenizer() const;

  // Reads tokenizer.json, else tokenizer.model, or the tokens of the file, the first time. Throws Error (input) when
  // there is none, or it is damaged or of a kind that Choir does not know. Ids alone never need one.
  const text::Tokenizer& tokenizer() const;

  const model::Model model;

 private:
  std::string path_;
  mutable std::unique_ptr<const text::Tokenizer> tokenizer_;
};

}  // namespace choir::runtime
