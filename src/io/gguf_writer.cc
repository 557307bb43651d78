#include "io/gguf_writer.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"

namespace choir::io {
namespace {

template <class T>
void append(std::string& text, T value) {
  std::array<char, sizeof value> bytes;
  std::memcpy(bytes.data(), &value, sizeof value);
  text.append(bytes.data(), bytes.size());
}

void append_string(std::string& text, std::string_view value) {
  append<uint64_t>(text, value.size());
  text += value;
}

size_t padding_of(size_t size) { return (kGgufAlignment - size % kGgufAlignment) % kGgufAlignment; }

}  // namespace

void GgufHeader::begin(std::string_view key, GgufType type) {
  CHOIR_CHECK(!key.empty() && taken_.insert("key " + std::string(key)).second, "the key " + std::string(key));
  append_string(entries_, key);
  append(entries_, static_cast<uint32_t>(type));
  ++entry_count_;
}

void GgufHeader::begin_array(std::string_view key, GgufType type, size_t count) {
  begin(key, GgufType::kArray);
  append(entries_, static_cast<uint32_t>(type));
  append<uint64_t>(entries_, count);
}

void GgufHeader::put(std::string_view key, uint32_t value) {
  begin(key, GgufType::kU32);
  append(entries_, value);
}

void GgufHeader::put(std::string_view key, float value) {
  begin(key, GgufType::kF32);
  append(entries_, value);
}

void GgufHeader::put(std::string_view key, bool value) {
  begin(key, GgufType::kBool);
  append<uint8_t>(entries_, value ? 1 : 0);
}

void GgufHeader::put(std::string_view key, std::string_view value) {
  begin(key, GgufType::kString);
  append_string(entries_, value);
}

void GgufHeader::put(std::string_view key, std::span<const int32_t> values) {
  begin_array(key, GgufType::kI32, values.size());
  for (const int32_t value : values) append(entries_, value);
}

void GgufHeader::put(std::string_view key, std::span<const float> values) {
  begin_array(key, GgufType::kF32, values.size());
  for (const float value : values) append(entries_, value);
}

void GgufHeader::put(std::string_view key, std::span<const std::byte> values) {
  begin_array(key, GgufType::kI8, values.size());
  entries_.append(reinterpret_cast<const char*>(values.data()), values.size());
}

void GgufHeader::put(std::string_view key, std::span<const std::string> values) {
  begin_array(key, GgufType::kString, values.size());
  for (const std::string& value : values) append_string(entries_, value);
}

void GgufHeader::put(const GgufEntry& entry) {
  if (entry.is_array)
    begin_array(entry.key, entry.type, entry.count);
  else
    begin(entry.key, entry.type);
  entries_.append(reinterpret_cast<const char*>(entry.bytes.data()), entry.bytes.size());
}

void GgufHeader::declare(std::string_view name, tensor::DType type, std::span<const int64_t> shape) {
  const auto number = gguf_number_of(type);
  CHOIR_CHECK(number && shape.size() <= 4, std::string(name) + ": " + std::string(tensor::name_of(type)));
  CHOIR_CHECK(!name.empty() && name.size() < 64 && taken_.insert("tensor " + std::string(name)).second,
              "the name " + std::string(name));
  size_t size = tensor::bytes_of(type, shape.empty() ? 1 : static_cast<size_t>(shape.back()));
  append_string(tensors_, name);
  append(tensors_, static_cast<uint32_t>(shape.size()));
  for (size_t d = shape.size(); d > 0; --d) append(tensors_, static_cast<uint64_t>(shape[d - 1]));
  for (size_t d = 0; d + 1 < shape.size(); ++d) size *= static_cast<size_t>(shape[d]);
  append(tensors_, *number);
  append(tensors_, next_);
  next_ += size + padding_of(size);
  sizes_.push_back(size);
}

std::string GgufHeader::bytes() const {
  std::string text = "GGUF";
  append<uint32_t>(text, 3);
  append<uint64_t>(text, sizes_.size());
  append(text, entry_count_);
  text += entries_ + tensors_;
  text.resize(text.size() + padding_of(text.size()), '\0');
  return text;
}

GgufWriter::GgufWriter(const std::string& path, const GgufHeader& header, base::Existing existing)
    : file_(path, existing), sizes_(header.sizes()) {
  file_.write(header.bytes());
  close_finished();
}

void GgufWriter::close_finished() {
  constexpr std::array<std::byte, kGgufAlignment> kZeros{};
  while (tensor_ < sizes_.size() && written_ == sizes_[tensor_]) {
    file_.write(std::span(kZeros).first(padding_of(written_)));
    ++tensor_;
    written_ = 0;
  }
}

void GgufWriter::write(std::span<const std::byte> piece) {
  CHOIR_CHECK(tensor_ < sizes_.size() && piece.size() <= sizes_[tensor_] - written_, "more bytes than were declared");
  file_.write(piece);
  written_ += piece.size();
  close_finished();
}

const std::string& GgufWriter::finish() {
  CHOIR_CHECK(tensor_ == sizes_.size(), "tensor " + std::to_string(tensor_) + " is not complete");
  file_.flush();
  return file_.partial();
}

void GgufWriter::commit() {
  finish();
  file_.commit();
}

}  // namespace choir::io
