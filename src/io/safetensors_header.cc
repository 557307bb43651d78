#include "io/safetensors_header.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/error.h"
#include "io/json_cursor.h"

namespace choir::io {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kMetadataName = "__metadata__";

// Follows the parser through the only shape a header may have, so that the depth is fixed:
//   {"__metadata__": {text: text}, name: {"dtype": text, "shape": [whole], "data_offsets": [whole, whole]}}
class Reader final : public nlohmann::json_sax<Json> {
 public:
  Reader(std::string_view text, const std::string& path) : text_(text), path_(path) {}

  Header read() {
    refuse_nul();
    Json::sax_parse(JsonCursor(text_.data(), &read_), JsonCursor(text_.data() + text_.size(), &read_), this);
    return std::move(header_);
  }

  bool null() override { unexpected(); }
  bool boolean(bool) override { unexpected(); }
  bool number_integer(number_integer_t) override { unexpected(); }
  bool number_float(number_float_t, const string_t&) override { unexpected(); }
  bool binary(binary_t&) override { unexpected(); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::kShape) return add_dimension(value);
    if (place_ != Place::kOffsets || entry().data_offsets.size() == 2) unexpected();
    entry().data_offsets.push_back(value);
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata)
      header_.metadata[key_] = std::move(value);
    else if (place_ == Place::kEntry && key_ == "dtype")
      entry().type = std::move(value);
    else
      unexpected();
    return true;
  }

  bool start_object(size_t) override {
    if (place_ == Place::kOutside) return go(Place::kTop);
    if (place_ != Place::kTop) unexpected();
    if (name_ == kMetadataName) return go(Place::kMetadata);
    header_.entries.push_back({.name = name_, .type = {}, .shape = {}, .data_offsets = {}, .byte = byte()});
    return go(Place::kEntry);
  }

  bool key(string_t& key) override {
    auto& seen = place_ == Place::kTop ? names_ : place_ == Place::kMetadata ? metadata_keys_ : fields_;
    if (place_ == Place::kTop) name_ = key;
    if (place_ == Place::kEntry && key != "dtype" && key != "shape" && key != "data_offsets")
      refuse("an unknown field " + shown(key));
    if (!seen.insert(key).second) refuse("the key " + shown(key) + " stands twice");
    key_ = std::move(key);
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTop) return go(Place::kOutside);
    if (place_ == Place::kEntry && fields_.size() != 3) refuse("dtype, shape or data_offsets is missing");
    fields_.clear();
    return go(Place::kTop);
  }

  bool start_array(size_t) override {
    if (place_ == Place::kEntry && key_ == "shape") return go(Place::kShape);
    if (place_ == Place::kEntry && key_ == "data_offsets") return go(Place::kOffsets);
    unexpected();
  }

  bool end_array() override {
    if (place_ == Place::kOffsets && entry().data_offsets.size() != 2) refuse("data_offsets are not two numbers");
    return go(Place::kEntry);
  }

  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override {
    refuse("the header is not valid JSON");
  }

 private:
  enum class Place { kOutside, kTop, kMetadata, kEntry, kShape, kOffsets };

  HeaderEntry& entry() { return header_.entries.back(); }
  size_t byte() const { return kLengthBytes + read_; }
  bool go(Place place) {
    place_ = place;
    return true;
  }
  bool add_dimension(uint64_t value) {
    if (value > static_cast<uint64_t>(INT64_MAX)) refuse("a dimension is beyond 64 bits");
    if (entry().shape.size() == kMostDimensions) refuse("more than " + std::to_string(kMostDimensions) + " dimensions");
    entry().shape.push_back(static_cast<int64_t>(value));
    return true;
  }
  // The library takes a NUL for the end of the text and would not see what follows it.
  void refuse_nul() {
    const size_t nul = text_.find('\0');
    if (nul == std::string_view::npos) return;
    read_ = nul;
    refuse("a NUL byte in the header");
  }
  [[noreturn]] void unexpected() const { refuse("a value of the wrong kind"); }
  [[noreturn]] void refuse(const std::string& what) const {
    base::input_error(what, place_in(path_, name_, byte()), "the file is damaged or no safetensors file");
  }

  std::string_view text_;
  const std::string& path_;
  size_t read_ = 0;
  Header header_;
  Place place_ = Place::kOutside;
  std::string name_, key_;
  std::unordered_set<std::string> names_, metadata_keys_, fields_;
};

std::string quoted(const std::string& text) {
  try {
    return Json(text).dump();
  } catch (const Json::exception&) {
    base::check_failed("names and metadata are UTF-8", shown(text), __FILE__, __LINE__);
  }
}

}  // namespace

std::string place_in(const std::string& path, const std::string& tensor, size_t byte) {
  return path + (tensor.empty() ? "" : ": tensor " + shown(tensor)) + ": byte " + std::to_string(byte);
}

Header parse_header(std::string_view text, const std::string& path) { return Reader(text, path).read(); }

std::string format_header(std::span<const Tensor* const> tensors, const Metadata& metadata, size_t step) {
  std::string text = "{";
  if (!metadata.empty()) {
    text += fmt::format("\"{}\":{{", kMetadataName);
    for (const auto& [key, value] : metadata)
      text += fmt::format("{}{}:{}", text.back() == '{' ? "" : ",", quoted(key), quoted(value));
    text += '}';
  }
  size_t begin = 0;
  for (const Tensor* t : tensors) {
    if (text.size() > 1) text += ',';
    text += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{},{}]}}", quoted(t->name),
                        tensor::name_of(t->type), Json(t->shape).dump(), begin, begin + t->bytes.size());
    begin += t->bytes.size();
  }
  text += '}';
  text.resize((kLengthBytes + text.size() + step - 1) / step * step - kLengthBytes, ' ');
  return text;
}

}  // namespace choir::io
