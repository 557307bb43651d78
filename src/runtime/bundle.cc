#include "runtime/bundle.h"

#include <filesystem>

#include "base/error.h"

namespace choir::runtime {

const text::Tokenizer& Bundle::tokenizer() const {
  if (!tokenizer_or_null) base::input_error("no tokenizer.json", directory, "text needs one; token ids (--ids) do not");
  return *tokenizer_or_null;
}

Bundle load_bundle(const std::string& directory) {
  Bundle bundle{directory, model::Model(directory), nullptr};
  const std::string path = directory + "/tokenizer.json";
  if (std::filesystem::exists(path)) bundle.tokenizer_or_null = text::load_tokenizer(path);
  return bundle;
}

}  // namespace choir::runtime
