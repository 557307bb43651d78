#include "tensor/view.h"

#include <cmath>
#include <cstring>
#include <string>

#include "base/error.h"
#include "tensor/blocks.h"

namespace choir::tensor {
namespace {

// memcpy, because a file's numbers may begin at any address.
template <class T>
void widen_numbers(const std::byte* from, std::span<float> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    T number;
    std::memcpy(&number, from + i * sizeof(T), sizeof(T));
    out[i] = static_cast<float>(number);
  }
}

template <class T>
void narrow_numbers(std::span<const float> values, std::byte* to) {
  for (size_t i = 0; i < values.size(); ++i) {
    const T number = T::from(values[i]);
    std::memcpy(to + i * sizeof(T), &number, sizeof(T));
  }
}

void copy_bytes(std::span<const std::byte> from, void* to) {
  if (!from.empty()) std::memcpy(to, from.data(), from.size());
}

void check_rows(const Weight& weight) {
  CHOIR_CHECK(weight.layout != Layout::kPanels, "a packed weight of " + std::to_string(weight.rows) + " rows");
}

}  // namespace

Weight Weight::row(int i) const {
  check_rows(*this);
  const size_t step = bytes_of(type, static_cast<size_t>(cols));
  return {static_cast<const std::byte*>(data) + static_cast<size_t>(i) * step, type, 1, cols};
}

Matrix<const float> as_matrix(const Weight& weight) {
  check_rows(weight);
  CHOIR_CHECK(weight.type == DType::kF32, "a weight of type " + std::string(name_of(weight.type)));
  return {static_cast<const float*>(weight.data), weight.rows, weight.cols};
}

std::span<const float> as_vector(const Weight& weight) { return {as_matrix(weight).data, weight.size()}; }

void widen(const Weight& weight, std::span<float> out) {
  check_rows(weight);
  CHOIR_CHECK(out.size() == weight.size(), std::to_string(out.size()) + " vs " + std::to_string(weight.size()));
  const auto* bytes = static_cast<const std::byte*>(weight.data);
  switch (weight.type) {
    case DType::kF32: return copy_bytes({bytes, out.size_bytes()}, out.data());
    case DType::kF16: return widen_numbers<F16>(bytes, out);
    case DType::kBF16: return widen_numbers<BF16>(bytes, out);
    case DType::kF8E4M3: return widen_numbers<F8E4M3>(bytes, out);
    default: return decode_blocks(weight.type, bytes, out);
  }
}

void narrow(std::span<const float> values, DType type, std::span<std::byte> out) {
  CHOIR_CHECK(out.size() == bytes_of(type, values.size()), std::to_string(out.size()) + " bytes");
  switch (type) {
    case DType::kF32: return copy_bytes(std::as_bytes(values), out.data());
    case DType::kF16: return narrow_numbers<F16>(values, out.data());
    case DType::kBF16: return narrow_numbers<BF16>(values, out.data());
    default: return encode_blocks(values, type, out.data());
  }
}

// A block's scale is a half: of Q8_0 a 127th of the largest number, of Q4_0 an eighth.
float largest(DType type) {
  constexpr float kHalf = 65504, kBrain = 0x1.fep127f;
  switch (type) {
    case DType::kF16: return kHalf;
    case DType::kBF16: return kBrain;
    case DType::kQ8_0: return 127 * kHalf;
    case DType::kQ4_0: return 8 * kHalf;
    default: return HUGE_VALF;
  }
}

}  // namespace choir::tensor
