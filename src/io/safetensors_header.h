// The JSON text in front of a safetensors file. Knows the grammar; safetensors.cc knows the arithmetic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/safetensors.h"

namespace choir::io {

inline constexpr size_t kLengthBytes = 8;                // the header's length, in front of the header
inline constexpr size_t kMostHeaderBytes = 100'000'000;  // the reference reader's limit
inline constexpr size_t kMostDimensions = 32;

struct HeaderEntry {
  std::string name, type;
  std::vector<int64_t> shape;          // not negative
  std::vector<uint64_t> data_offsets;  // begin and end, relative to the end of the header
  size_t byte = 0;                     // of the file, where the name ends
};

struct Header {
  std::vector<HeaderEntry> entries;  // names are distinct
  Metadata metadata;
};

// Memory is bounded by a small multiple of the text and the stack does not grow with it.
// Throws Error (input) with file, tensor and byte of the file.
Header parse_header(std::string_view text, const std::string& path);

// "file: tensor "x": byte n", for the errors of a safetensors file.
std::string place_in(const std::string& path, const std::string& tensor, size_t byte);

// The text for tensors that lie behind it in this order, blanks appended so that they begin at a multiple of `step`,
// which is one of kLengthBytes.
std::string format_header(std::span<const Tensor* const> tensors, const Metadata& metadata, size_t step = kLengthBytes);

}  // namespace choir::io
