#include "train/moments.h"

#include <algorithm>
#include <bit>
#include <cstdint>

#include "base/error.h"

namespace choir::train {
namespace {

using tensor::BF16;
using tensor::DType;

constexpr size_t kPiece = size_t{1} << 18;  // numbers that are wide at one time
constexpr size_t kBlock = size_t{1} << 14;  // of them in one iteration

// Sixteen even bits from a place and a step: the end of MurmurHash3.
uint32_t draw(uint64_t place, uint64_t step) {
  uint64_t h = place * 0x9e3779b97f4a7c15 + step;
  h = (h ^ h >> 33) * 0xff51afd7ed558ccd;
  h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53;
  return static_cast<uint32_t>(h >> 48);
}

// Not for infinities and NaNs: the gradient is finite.
BF16 rounded(float value, uint32_t sixteen_bits) {
  return {static_cast<uint16_t>((std::bit_cast<uint32_t>(value) + sixteen_bits) >> 16)};
}

template <class Body>
void each_block(size_t size, base::Threads& threads, const Body& body) {
  threads.for_each(static_cast<int>((size + kBlock - 1) / kBlock), [&](int block) {
    const size_t begin = static_cast<size_t>(block) * kBlock;
    for (size_t i = begin; i < std::min(size, begin + kBlock); ++i) body(i);
  });
}

}  // namespace

Moments::Moments(size_t size, DType type)
    : type_(type), first_(size * tensor::size_of(type)), second_(size * tensor::size_of(type)) {
  CHOIR_CHECK(type == DType::kF32 || type == DType::kBF16, "moments are float or bfloat16");
}

std::span<float> Moments::floats(const Buffer<std::byte>& block, size_t begin, size_t size) const {
  return {reinterpret_cast<float*>(block.data()) + begin, size};
}

void Moments::update(const kernels::AdamwStep& step, std::span<float> value, std::span<const float> gradient,
                     size_t begin, base::Threads& threads) {
  if (type_ == DType::kF32)
    return kernels::adamw(
        step, {value, floats(first_, begin, value.size()), floats(second_, begin, value.size()), gradient}, threads);
  const auto number = static_cast<uint64_t>(step.step);
  for (size_t done = 0; done < value.size(); done += kPiece) {
    const size_t size = std::min(kPiece, value.size() - done), at = begin + done;
    wide_first_.reserve(size);
    wide_second_.reserve(size);
    float *wide_first = wide_first_.data(), *wide_second = wide_second_.data();
    BF16* first = reinterpret_cast<BF16*>(first_.data()) + at;
    BF16* second = reinterpret_cast<BF16*>(second_.data()) + at;
    each_block(size, threads, [&](size_t i) {
      wide_first[i] = static_cast<float>(first[i]);
      wide_second[i] = static_cast<float>(second[i]);
    });
    kernels::adamw(step,
                   {value.subspan(done, size), {wide_first, size}, {wide_second, size}, gradient.subspan(done, size)},
                   threads);
    each_block(size, threads, [&](size_t i) {
      first[i] = rounded(wide_first[i], draw(2 * (at + i), number));
      second[i] = rounded(wide_second[i], draw(2 * (at + i) + 1, number));
    });
  }
}

}  // namespace choir::train
