// Products with weights in an order made for them: decoding reads memory as one stream a thread, prefill multiplies
// bytes with the VNNI instruction, and both give a row the same bits.
//
// Packed weights. Rows are interleaved in panels, so that a panel's numbers lie in the order in which they are used and
// the panels one behind the other; the last panel is filled up with zeros. The bytes are those of the file, reordered
// (packed_formats.h, number_tile.h say how), so a packed weight is as large as the weight.
//
// Q8_0, Q4_0, Q4_K, Q6_K, MXFP4: panels of 16 rows. The activations are quantised too, each row in blocks of 32:
//   x_k ~ s q_k,  s = max |x| / 127 over the block,  q_k = x_k / s rounded to the nearest.
// With w_k = d c_k - m, c_k whole, the part of y = sum_k w_k x_k from one block is
//   d s (sum_k c_k q_k) - m s (sum_k q_k),
// the first sum exact in integers, so the way it is made does not matter: four products at a time by VNNI, or as floats
// elsewhere. Blocks are added in ascending order, by one multiply-add each (Q6_K, whose d holds for 16 numbers, two;
// Q4_K, which alone has an m, one more). So an element depends on its row and its column alone, whatever the batch, the
// threads, the tile and, but for x86-64 without fused multiply-adds, the instruction set.
//
// F32, BF16, F16: panels of 16 rows too. An element is the sum over k in ascending order, one multiply-add at a time.
// On machines that multiply BF16 faster than floats (Isa::kBf16) rows of x are rounded to that for weights in BF16, and
// an element has other bits there than elsewhere; but again they depend on its row and its column alone.
#pragma once

#include "kernels/grouped_gemm.h"

namespace choir::kernels {

constexpr int kPanelOutputs = 16;  // rows of the weight in a panel

// The order of the bytes that pack() writes, which is the same on every machine; files name it (docs/formats.md).
// Whoever changes the order changes the number.
constexpr int kPanelVersion = 1;

bool can_pack(tensor::DType type);
bool wants_blocks(tensor::DType type);  // of the activations; CHECKs that the type can be packed
bool wants_pairs(tensor::DType type);   // of the activations, on this machine
size_t packed_bytes(tensor::DType type, int rows, int cols);

// What pack() writes: one weight behind the other, each at a multiple of 64.
size_t packed_bytes(std::span<const Weight> weights);

// Each weight gets its numbers in panels, at `to`, of packed_bytes(weights); aligned to 64 is fastest. The bytes that
// the weights looked at before are not needed afterwards.
void pack(std::span<Weight> weights, std::span<std::byte> to, Threads& threads);

// One panel of them, the rows from `row` on of a weight in rows: packed_bytes(type, kPanelOutputs, cols) bytes at `to`.
void pack_panel(const Weight& weight, int row, std::byte* to);

// The reverse of pack() for one weight in panels: its bytes as they lay in rows, packed.bytes() of them at `to`.
void unpack(const Weight& packed, std::byte* to);

// 32 quantised activations of one row.
struct RowBlock {
  static constexpr int kNumbers = 32;

  float scale;        // s
  float total;        // s sum q
  int32_t offset;     // -128 sum q: what makes the sum over c + 128 one over c
  int32_t low, high;  // -32 sum q of the first half and of the second
  int8_t q[kNumbers];
};

// Rows of x as products read them. What no weight wants may be empty.
struct PackedInput {
  Matrix<const float> x;               // (N,I)
  std::span<const RowBlock> blocks{};  // of quantize(), for the same groups
  std::span<const uint32_t> pairs{};   // of round_to_pairs()
};

// A weight in rows for which packed_forward makes the panels in passing, a piece at a time that stays in the
// first cache.
Weight to_be_packed(const Weight& weight);

// How many blocks quantize() writes: one for each position and 32 whole columns.
size_t blocks_of(const Groups& groups, int cols);

// blocks.size() must be blocks_of(groups, x.cols). One call serves all products of the same input. Every expert's
// positions go eight at a time, the blocks of eight rows side by side. Magnitudes below 2^-100 count as zero; a number
// that is not finite makes all products of its row NaN.
void quantize(const Groups& groups, Matrix<const float> x, std::span<RowBlock> blocks, Threads& threads);

// Rows of x rounded to BF16, the nearest or the even one: two numbers a word, the earlier one in its lower half, and a
// zero where a row has no last one. pairs.size() must be x.rows * pairs_of(x.cols).
constexpr size_t pairs_of(int cols) { return (static_cast<size_t>(cols) + 1) / 2; }
void round_to_pairs(Matrix<const float> x, std::span<uint32_t> pairs, Threads& threads);

// One weight for each expert, and where the products with it go.
struct Product {
  std::span<const Weight> w;
  Matrix<float> y;
};

// For each of the products: y[i] = w[e] x[row[i]] for every position i of expert e: x (N, at least I_e), w[e] (O_e,I_e)
// packed, y (M, at least O_e). All in one launch. Experts may differ in size and type. The numbers x are not read where
// a weight wants blocks, only how many they are.
void packed_forward(const Groups& groups, const PackedInput& input, std::span<const Product> products,
                    Threads& threads);

}  // namespace choir::kernels
