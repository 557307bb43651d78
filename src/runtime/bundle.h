// What a model directory holds: weights that compute and, where it is there, the tokenizer that belongs to them.
#pragma once

#include <memory>
#include <string>

#include "model/model.h"
#include "text/tokenizer.h"

namespace choir::runtime {

// Movable. Threads may share it.
struct Bundle {
  std::string directory;
  model::Model model;
  std::unique_ptr<const text::Tokenizer> tokenizer_or_null;

  // Throws Error (input) when the directory has no tokenizer.json. Ids alone never need one.
  const text::Tokenizer& tokenizer() const;
};

// Throws Error (input) naming the file when the model or a tokenizer.json that is there is damaged.
Bundle load_bundle(const std::string& directory);

}  // namespace choir::runtime
