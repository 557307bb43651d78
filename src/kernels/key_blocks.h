// Keys and values in blocks (attention.h), which a cache grows by.
#pragma once

#include "kernels/attention.h"

namespace choir::kernels {

struct KeyBlocks {
  Matrix<float> k, v;  // (sequences * kv_heads * blocks, key_block) and (..., value_block)
  int blocks = 0;      // of each head of a sequence
};

// Writes keys (N, kv_heads*W) and values (N, kv_heads*U) of the sequences' new tokens to their positions.
void store_keys(const AttentionInput& rows, const KeyBlocks& to, Threads& threads);

}  // namespace choir::kernels
