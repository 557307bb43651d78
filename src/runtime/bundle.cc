#include "runtime/bundle.h"

#include "base/error.h"
#include "model/gguf_model.h"
#include "text/directory_tokens.h"
#include "text/gguf_tokens.h"

namespace choir::runtime {

namespace {

model::Model load(const std::string& path, Use use) {
  model::Model model(path, use == Use::kRun ? model::Panels::kStay : model::Panels::kToRows);
  return use == Use::kWrite ? model.savable() : model;
}

}  // namespace

Bundle::Bundle(const std::string& path, Use use) : model(load(path, use)), path_(path) {}

bool Bundle::has_tokenizer() const {
  if (model::is_gguf(path_)) return io::GgufFile(path_).metadata().has("tokenizer.ggml.tokens");
  return text::directory_has_tokens(path_);
}

const text::Tokenizer& Bundle::tokenizer() const {
  if (tokenizer_) return *tokenizer_;
  const bool file = model::is_gguf(path_);
  if (!has_tokenizer())
    base::input_error(file ? "no tokens" : "no tokenizer.json and no tokenizer.model", path_,
                      "text needs them; token ids (--ids) do not");
  if (file)
    tokenizer_ = text::make_tokenizer(text::read_gguf_vocabulary(io::GgufFile(path_).metadata()), path_);
  else
    tokenizer_ = text::load_directory_tokenizer(path_);
  return *tokenizer_;
}

}  // namespace choir::runtime
