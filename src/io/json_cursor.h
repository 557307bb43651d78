// Feeds text to the JSON parser byte by byte and tells everyone how far it has come.
#pragma once

#include <cstddef>
#include <iterator>
#include <string>
#include <string_view>

namespace choir::io {

// An iterator over the text; all copies report to the same count, which must outlive them.
class JsonCursor {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  JsonCursor(const char* at, size_t* bytes_read) : at_(at), bytes_read_(bytes_read) {}

  reference operator*() const { return *at_; }
  JsonCursor& operator++() {
    ++at_;
    ++*bytes_read_;
    return *this;
  }
  bool operator==(const JsonCursor& other) const { return at_ == other.at_; }

 private:
  const char* at_;
  size_t* bytes_read_;
};

// A name from a file, quoted and cut short, so that a hostile name cannot flood the error message.
inline std::string shown(std::string_view name) {
  constexpr size_t kMost = 120;
  return '"' + std::string(name.substr(0, kMost)) + (name.size() > kMost ? "...\"" : "\"");
}

}  // namespace choir::io
