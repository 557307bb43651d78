#include "runtime/bundle.h"

#include <filesystem>

#include "base/error.h"

namespace choir::runtime {

bool Bundle::has_tokenizer() const { return std::filesystem::exists(directory_ + "/tokenizer.json"); }

const text::Tokenizer& Bundle::tokenizer() const {
  if (!has_tokenizer()) base::input_error("no tokenizer.json", directory_, "text needs one; token ids (--ids) do not");
  if (!tokenizer_) tokenizer_ = text::load_tokenizer(directory_ + "/tokenizer.json");
  return *tokenizer_;
}

}  // namespace choir::runtime
