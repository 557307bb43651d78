#include "model/families/family.h"

#include <algorithm>

#include "base/error.h"

namespace choir::model {
namespace {

constexpr const Family* kFamilies[] = {&kMixtral,    &kQwen2Moe, &kQwen3Moe, &kOlmoe,      &kDeepseekV2,
                                       &kDeepseekV3, &kPhimoe,   &kGptOss,   &kGraniteMoe, &kLlama,
                                       &kMistral,    &kQwen2,    &kQwen3};

}  // namespace

const Family* find_family(std::string_view name) {
  const auto found = std::ranges::find_if(kFamilies, [&](const Family* f) { return f->name == name; });
  return found == std::end(kFamilies) ? nullptr : *found;
}

const Family& family_of(const std::string& name, const std::string& where) {
  if (const Family* family = find_family(name)) return *family;
  std::string known;
  for (const Family* family : kFamilies) known += (known.empty() ? "" : ", ") + std::string(family->name);
  base::input_error("unknown family \"" + name + "\"", where + ": model_type", "known: " + known);
}

}  // namespace choir::model
