// The two running means that AdamW keeps for every parameter, in float or in half the memory.
#pragma once

#include <cstddef>
#include <span>

#include "kernels/adamw.h"
#include "tensor/buffer.h"
#include "tensor/dtype.h"

namespace choir::train {

using tensor::Buffer;

class Moments {
 public:
  Moments(size_t size, tensor::DType type);  // kF32 or kBF16

  tensor::DType type() const { return type_; }
  std::span<std::byte> first() const { return first_.span(); }  // as they are stored
  std::span<std::byte> second() const { return second_.span(); }

  // One step of the parameters [begin, begin + value.size()). Independent of the number of threads.
  void update(const kernels::AdamwStep& step, std::span<float> value, std::span<const float> gradient, size_t begin,
              base::Threads& threads);

 private:
  tensor::DType type_;
  Buffer<std::byte> first_, second_;
};

}  // namespace choir::train
