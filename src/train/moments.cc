#include "train/moments.h"

#include "base/error.h"

namespace choir::train {
namespace {

using tensor::BF16;
using tensor::DType;

template <class Number>
std::span<Number> part(const Buffer<std::byte>& block, size_t begin, size_t size) {
  return {reinterpret_cast<Number*>(block.data()) + begin, size};
}

}  // namespace

Moments::Moments(size_t size, DType type)
    : type_(type), first_(size * tensor::size_of(type)), second_(size * tensor::size_of(type)) {
  CHOIR_CHECK(type == DType::kF32 || type == DType::kBF16, "moments are float or bfloat16");
}

void Moments::update(const kernels::AdamwStep& step, std::span<float> value, std::span<const float> gradient,
                     size_t begin, base::Threads& threads) {
  const size_t size = value.size();
  if (type_ == DType::kF32)
    kernels::adamw(
        step, kernels::AdamwState{value, part<float>(first_, begin, size), part<float>(second_, begin, size), gradient},
        threads);
  else
    kernels::adamw(step,
                   kernels::AdamwNarrowState{value, part<BF16>(first_, begin, size), part<BF16>(second_, begin, size),
                                             gradient, begin},
                   threads);
}

}  // namespace choir::train
