#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "io/gguf.h"
#include "io/json_cursor.h"

namespace choir::io {
namespace {

template <class T>
T read(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

bool is_whole(GgufType type) {
  return type != GgufType::kF32 && type != GgufType::kF64 && type != GgufType::kBool && type != GgufType::kString &&
         type != GgufType::kArray;
}

// Element i of an entry of whole numbers. None where it does not fit.
std::optional<int64_t> whole(const GgufEntry& entry, size_t i) {
  const std::byte* at = entry.bytes.data();
  switch (entry.type) {
    case GgufType::kU8: return read<uint8_t>(at + i);
    case GgufType::kI8: return read<int8_t>(at + i);
    case GgufType::kU16: return read<uint16_t>(at + 2 * i);
    case GgufType::kI16: return read<int16_t>(at + 2 * i);
    case GgufType::kU32: return read<uint32_t>(at + 4 * i);
    case GgufType::kI32: return read<int32_t>(at + 4 * i);
    case GgufType::kI64: return read<int64_t>(at + 8 * i);
    case GgufType::kU64: break;
    default: return std::nullopt;
  }
  const auto value = read<uint64_t>(at + 8 * i);
  if (value > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
  return static_cast<int64_t>(value);
}

double number(const GgufEntry& entry, size_t i) {
  if (entry.type == GgufType::kF32) return static_cast<double>(read<float>(entry.bytes.data() + 4 * i));
  if (entry.type == GgufType::kF64) return read<double>(entry.bytes.data() + 8 * i);
  const auto value = whole(entry, i);
  return value ? static_cast<double>(*value) : NAN;
}

}  // namespace

GgufMetadata::GgufMetadata(std::vector<GgufEntry> entries, std::string path)
    : entries_(std::move(entries)), path_(std::move(path)) {
  for (size_t i = 0; i < entries_.size(); ++i) index_.emplace(entries_[i].key, i);
}

const GgufEntry* GgufMetadata::find(std::string_view key) const {
  const auto found = index_.find(key);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

const GgufEntry* GgufMetadata::find(std::string_view key, bool required) const {
  const GgufEntry* entry = find(key);
  if (!entry && required)
    base::input_error("a key is missing", path_ + ": key " + shown(key), "the file does not describe a whole model");
  return entry;
}

std::string GgufMetadata::place_of(const GgufEntry& entry) const {
  return path_ + ": key " + shown(entry.key) + ": byte " + std::to_string(entry.byte);
}

void GgufMetadata::refuse(const GgufEntry& entry, const std::string& wanted) const {
  base::input_error("a key has a wrong value", place_of(entry), "it must be " + wanted);
}

int64_t GgufMetadata::get_int(std::string_view key, int64_t least, int64_t most,
                              std::optional<int64_t> fallback) const {
  const GgufEntry* entry = find(key, !fallback);
  if (!entry) return *fallback;
  const auto value = entry->is_array ? std::nullopt : whole(*entry, 0);
  if (!value || *value < least || *value > most) refuse(*entry, fmt::format("an integer from {} to {}", least, most));
  return *value;
}

double GgufMetadata::get_number(std::string_view key, double least, double most, std::optional<double> fallback) const {
  const GgufEntry* entry = find(key, !fallback);
  if (!entry) return *fallback;
  const double value = entry->is_array ? NAN : number(*entry, 0);
  if (!std::isfinite(value) || value < least || value > most)
    refuse(*entry, fmt::format("a finite number from {} to {}", least, most));
  return value;
}

bool GgufMetadata::get_bool(std::string_view key, std::optional<bool> fallback) const {
  const GgufEntry* entry = find(key, !fallback);
  if (!entry) return *fallback;
  if (entry->is_array || entry->type != GgufType::kBool) refuse(*entry, "true or false");
  return entry->bytes.front() != std::byte{0};
}

std::string GgufMetadata::get_string(std::string_view key, std::optional<std::string> fallback) const {
  const GgufEntry* entry = find(key, !fallback);
  if (!entry) return *fallback;
  if (entry->is_array || entry->type != GgufType::kString) refuse(*entry, "a string");
  const auto text = entry->bytes.subspan(sizeof(uint64_t));
  return {reinterpret_cast<const char*>(text.data()), text.size()};
}

std::vector<int64_t> GgufMetadata::ints(std::string_view key, int64_t least, int64_t most) const {
  std::vector<int64_t> result;
  const GgufEntry* entry = find(key);
  if (!entry) return result;
  if (!is_whole(entry->type)) refuse(*entry, "whole numbers");
  result.reserve(entry->count);
  for (size_t i = 0; i < entry->count; ++i) {
    const auto value = whole(*entry, i);
    if (!value || *value < least || *value > most) refuse(*entry, fmt::format("integers from {} to {}", least, most));
    result.push_back(*value);
  }
  return result;
}

std::vector<double> GgufMetadata::numbers(std::string_view key) const {
  std::vector<double> result;
  const GgufEntry* entry = find(key);
  if (!entry) return result;
  result.reserve(entry->count);
  for (size_t i = 0; i < entry->count; ++i) {
    result.push_back(number(*entry, i));
    if (!std::isfinite(result.back())) refuse(*entry, "finite numbers");
  }
  return result;
}

std::vector<std::string_view> GgufMetadata::strings(std::string_view key) const {
  std::vector<std::string_view> result;
  const GgufEntry* entry = find(key);
  if (!entry) return result;
  if (entry->type != GgufType::kString) refuse(*entry, "strings");
  result.reserve(entry->count);
  const std::byte* at = entry->bytes.data();
  for (size_t i = 0; i < entry->count; ++i) {
    const auto length = read<uint64_t>(at);
    result.emplace_back(reinterpret_cast<const char*>(at) + sizeof length, length);
    at += sizeof length + length;
  }
  return result;
}

}  // namespace choir::io
