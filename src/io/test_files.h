// Helpers of this room's tests.
#pragma once

#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/safetensors.h"
#include "tests/files.h"

namespace choir::io {

using tests::contains;
using tests::refusal_of;
using tests::TemporaryDirectory;

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

template <class T>
Tensor tensor_over(const std::string& name, tensor::DType type, std::vector<int64_t> shape,
                   const std::vector<T>& data) {
  return {name, type, std::move(shape), std::as_bytes(std::span(data))};
}

}  // namespace choir::io
