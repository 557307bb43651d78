// Formats of a few numbers that share a scale, as GGUF files hold them (ggml: src/ggml-common.h).
#pragma once

#include <cstddef>
#include <span>

#include "tensor/dtype.h"

namespace choir::tensor {

// numbers.size() must be whole blocks; bytes may begin at any address. CHECKs that the type has blocks.
void decode_blocks(DType type, const std::byte* from, std::span<float> numbers);

// Q8_0 and Q4_0, rounded as ggml's reference encoders do. Numbers that are not finite, or beyond largest(type), give
// blocks without meaning.
void encode_blocks(std::span<const float> numbers, DType type, std::byte* to);

// A safetensors file keeps MXFP4 in two tensors: `nibbles`, 16 bytes a block with the numbers 2j and 2j + 1 in byte j,
// the first in the low half; and `scales`, one byte a block. GGUF keeps a block together, the scale in front, with the
// numbers j and j + 16 in byte j. to.size() is 17 bytes a block. No number changes.
void join_mxfp4(std::span<const std::byte> nibbles, std::span<const std::byte> scales, std::span<std::byte> to);
void split_mxfp4(std::span<const std::byte> blocks, std::span<std::byte> nibbles, std::span<std::byte> scales);

}  // namespace choir::tensor
