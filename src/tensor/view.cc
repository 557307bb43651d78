#include "tensor/view.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace choir::tensor {

Weight Weight::row(int i) const {
  const size_t step = static_cast<size_t>(cols) * size_of(type);
  return {static_cast<const std::byte*>(data) + static_cast<size_t>(i) * step, type, 1, cols};
}

Matrix<const float> as_matrix(const Weight& weight) {
  CHOIR_CHECK(weight.type == DType::kF32, "a weight of type " + std::string(name_of(weight.type)));
  return {static_cast<const float*>(weight.data), weight.rows, weight.cols};
}

std::span<const float> as_vector(const Weight& weight) { return {as_matrix(weight).data, weight.size()}; }

void widen(const Weight& weight, std::span<float> out) {
  CHOIR_CHECK(out.size() == weight.size(), std::to_string(out.size()) + " vs " + std::to_string(weight.size()));
  const auto convert = [&](const auto* from) {
    std::transform(from, from + weight.size(), out.begin(), [](auto v) { return static_cast<float>(v); });
  };
  switch (weight.type) {
    case DType::kF32: return convert(static_cast<const float*>(weight.data));
    case DType::kF16: return convert(static_cast<const F16*>(weight.data));
    case DType::kBF16: return convert(static_cast<const BF16*>(weight.data));
    default: CHOIR_CHECK(false, "a weight of type " + std::string(name_of(weight.type)));
  }
}

}  // namespace choir::tensor
