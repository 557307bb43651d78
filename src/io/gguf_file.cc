#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "io/gguf.h"
#include "io/json_cursor.h"

namespace choir::io {
namespace {

constexpr const char* kNumber = "split.no";
constexpr const char* kCount = "split.count";
constexpr const char* kTensors = "split.tensors.count";
constexpr int64_t kMostParts = 99999;  // as their names have five digits

std::string ending_of(int64_t part, int64_t count) { return fmt::format("-{:05}-of-{:05}.gguf", part + 1, count); }

// The path of a first part without its ending.
std::string stem_of(const std::string& path, const GgufMetadata& first, int64_t count) {
  const int64_t part = first.get_int(kNumber, 0, count - 1);
  const std::string ending = ending_of(part, count);
  if (!path.ends_with(ending))
    base::input_error(fmt::format("part {} of {} is not named so", part + 1, count), path,
                      "parts are named NAME" + ending);
  const std::string stem = path.substr(0, path.size() - ending.size());
  if (part > 0)
    base::input_error(fmt::format("part {} of {}", part + 1, count), path,
                      "give the first: " + stem + ending_of(0, count));
  return stem;
}

// What both parts say about the model must be the same.
void check_part(const GgufMetadata& part, const GgufMetadata& first, int64_t number, int64_t count) {
  const int64_t its_count = part.get_int(kCount, 1, kMostParts), its_number = part.get_int(kNumber, 0, kMostParts);
  if (its_count != count || its_number != number)
    base::input_error(fmt::format("the file says that it is part {} of {}", its_number + 1, its_count), part.path(),
                      fmt::format("its name says part {} of {}", number + 1, count));
  for (const GgufEntry& entry : part.entries()) {
    const GgufEntry* same = first.find(entry.key);
    if (!same || entry.key == kNumber) continue;
    if (same->type != entry.type || same->is_array != entry.is_array || !std::ranges::equal(same->bytes, entry.bytes))
      base::input_error("the part belongs to another model", part.place_of(entry), "the first part says otherwise");
  }
}

}  // namespace

GgufFile::GgufFile(const std::string& path) {
  files_.push_back(std::make_shared<const base::MappedFile>(path));
  contents_ = parse_gguf(files_.front()->bytes(), path);
  const GgufMetadata& first = contents_.metadata;
  const int64_t count = first.get_int(kCount, 0, kMostParts, 1);
  const std::string stem = count > 1 ? stem_of(path, first, count) : "";
  for (int64_t number = 1; number < count; ++number) {
    const std::string part = stem + ending_of(number, count);
    std::error_code ignored;
    if (!std::filesystem::exists(part, ignored))
      base::input_error(fmt::format("part {} of {} is missing", number + 1, count), part,
                        "all parts must lie beside the first");
    files_.push_back(std::make_shared<const base::MappedFile>(part));
    Gguf more = parse_gguf(files_.back()->bytes(), part);
    check_part(more.metadata, first, number, count);
    std::ranges::move(more.tensors, std::back_inserter(contents_.tensors));
  }
  for (size_t i = 0; i < contents_.tensors.size(); ++i)
    if (!index_.emplace(contents_.tensors[i].name, i).second)
      base::input_error("two parts hold a tensor " + shown(contents_.tensors[i].name), path,
                        "the parts belong to different models");
  if (const int64_t held = std::ssize(contents_.tensors); count > 1 && first.get_int(kTensors, 0, INT32_MAX) != held)
    base::input_error(fmt::format("the parts hold {} tensors, not {}", held, first.get_int(kTensors, 0, INT32_MAX)),
                      path, "the parts belong to different models");
}

const Tensor* GgufFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &contents_.tensors[found->second];
}

}  // namespace choir::io
