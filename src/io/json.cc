#include "io/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "base/mapped_file.h"
#include "io/json_cursor.h"

namespace choir::io {
namespace {

// Builds the value from the parser's events. The library's own builder keeps the last of two equal keys and has no
// limit of depth.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  Json build() {
    refuse_nul();
    Json::sax_parse(JsonCursor(text_.data(), &read_), JsonCursor(text_.data() + text_.size(), &read_), this);
    return std::move(root_);
  }

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t&) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { refuse("binary data in JSON"); }
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    const auto [slot, is_new] = open_.back()->get_ref<Json::object_t&>().emplace(name, nullptr);
    if (!is_new) refuse("the key " + shown(name) + " stands twice in one object");
    slot_ = &slot->second;
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override {
    refuse("not valid JSON");
  }

 private:
  // A value goes to the root, to the end of the open array or under the last key of the open object.
  Json* place(Json&& value) {
    if (open_.empty()) return &(root_ = std::move(value));
    if (!open_.back()->is_array()) return &(*slot_ = std::move(value));
    open_.back()->push_back(std::move(value));
    return &open_.back()->back();
  }
  bool put(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json container) {
    if (open_.size() == kMostJsonDepth)
      refuse("JSON nested more than " + std::to_string(kMostJsonDepth) + " levels deep");
    open_.push_back(place(std::move(container)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }
  // The library takes a NUL for the end of the text and would not see what follows it.
  void refuse_nul() {
    const size_t nul = text_.find('\0');
    if (nul == std::string_view::npos) return;
    read_ = nul;
    refuse("a NUL byte in JSON");
  }
  [[noreturn]] void refuse(const std::string& what) const {
    const std::string_view before = text_.substr(0, read_);
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    base::input_error(what, where_ + ": byte " + std::to_string(read_) + " (line " + std::to_string(line) + ")",
                      "correct the file, or fetch it again if it is damaged");
  }

  std::string_view text_;
  const std::string& where_;
  size_t read_ = 0;
  Json root_;
  std::vector<Json*> open_;  // an open container is the last child of its parent, so that these pointers stay valid
  Json* slot_ = nullptr;
};

}  // namespace

Json parse_json(std::string_view text, const std::string& where) {
  if (text.size() > kMostJsonBytes)
    base::input_error("JSON of " + std::to_string(text.size()) + " bytes", where,
                      "at most " + std::to_string(kMostJsonBytes) + " bytes are read");
  return Builder(text, where).build();
}

Json read_json(const std::string& path) {
  const base::MappedFile file(path);
  return parse_json({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, path);
}

Fields::Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
  if (!object.is_object()) base::input_error("not a JSON object", where_, "write { ... } here");
}

const Json* Fields::find(const std::string& key) const {
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

const Json* Fields::find(const std::string& key, bool required) const {
  const Json* value = find(key);
  if (!value && required) base::input_error("a field is missing", where_ + ": field " + shown(key), "add it");
  return value;
}

void Fields::refuse(const std::string& key, const std::string& wanted) const {
  base::input_error("a field has a wrong value", where_ + ": field " + shown(key), "it must be " + wanted);
}

bool Fields::has(const std::string& key) const { return find(key) != nullptr; }

int64_t Fields::get_int(const std::string& key, int64_t least, int64_t most, std::optional<int64_t> fallback) const {
  const Json* value = find(key, !fallback);
  if (!value) return *fallback;
  const bool fits = value->is_number_integer() &&
                    !(value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX));
  const int64_t number = fits ? value->get<int64_t>() : 0;
  if (!fits || number < least || number > most)
    refuse(key, "an integer from " + std::to_string(least) + " to " + std::to_string(most));
  return number;
}

double Fields::get_number(const std::string& key, double least, double most, std::optional<double> fallback) const {
  const Json* value = find(key, !fallback);
  if (!value) return *fallback;
  const double number = value->is_number() ? value->get<double>() : NAN;
  if (!std::isfinite(number) || number < least || number > most)
    refuse(key, fmt::format("a finite number from {} to {}", least, most));
  return number;
}

bool Fields::get_bool(const std::string& key, std::optional<bool> fallback) const {
  const Json* value = find(key, !fallback);
  if (!value) return *fallback;
  if (!value->is_boolean()) refuse(key, "true or false");
  return value->get<bool>();
}

std::string Fields::get_string(const std::string& key, std::optional<std::string> fallback) const {
  const Json* value = find(key, !fallback);
  if (!value) return *fallback;
  if (!value->is_string()) refuse(key, "a string");
  return value->get<std::string>();
}

Fields Fields::get_object(const std::string& key) const {
  return Fields(*find(key, true), where_ + ": field " + shown(key));
}

}  // namespace choir::io
