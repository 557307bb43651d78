#include "nn/linear.h"

#include <algorithm>
#include <array>
#include <string>

#include "base/error.h"
#include "base/profile.h"

namespace choir::nn {
namespace {

using kernels::Groups;
using kernels::Product;

void add_to_rows(std::span<const float> bias, Matrix<float> y, Threads& threads) {
  constexpr int kRows = 64;
  threads.for_each((y.rows + kRows - 1) / kRows, [&](int piece) {
    for (int i = piece * kRows; i < std::min(y.rows, (piece + 1) * kRows); ++i) {
      float* row = y[i];
      for (int c = 0; c < y.cols; ++c) row[c] += bias[static_cast<size_t>(c)];
    }
  });
}

// Each piece owns some columns of every row, so that no two threads add to one number.
void add_rows(Matrix<const float> dy, std::span<float> sums, Threads& threads) {
  constexpr int kCols = 64;
  threads.for_each((dy.cols + kCols - 1) / kCols, [&](int piece) {
    const int begin = piece * kCols, count = std::min(kCols, dy.cols - begin);
    float total[kCols] = {};
    for (int i = 0; i < dy.rows; ++i)
      for (int c = 0; c < count; ++c) total[c] += dy[i][begin + c];
    for (int c = 0; c < count; ++c) sums[static_cast<size_t>(begin + c)] += total[c];
  });
}

bool any_weight(std::span<const Product> products, bool (*of_type)(tensor::DType)) {
  return std::ranges::any_of(products, [&](const Product& p) {
    return std::ranges::any_of(p.w, [&](const Weight& w) { return of_type(w.type); });
  });
}

void multiply_packed(const Groups& groups, Matrix<const float> x, std::span<const Product> products, PackedRoom& room,
                     Threads& threads) {
  kernels::PackedInput input{x};
  if (any_weight(products, kernels::wants_blocks)) {
    const size_t size = kernels::blocks_of(groups, x.cols);
    const size_t read = static_cast<size_t>(groups.offset.back()) * static_cast<size_t>(x.cols) * sizeof(float);
    const base::Operator op(threads, "quantize", base::moved_bytes, read + size * sizeof(kernels::RowBlock));
    room.blocks.reserve(size);
    kernels::quantize(groups, x, room.blocks.span().first(size), threads);
    input.blocks = room.blocks.span().first(size);
  }
  if (any_weight(products, kernels::wants_pairs)) {
    const size_t size = static_cast<size_t>(x.rows) * kernels::pairs_of(x.cols);
    const base::Operator op(threads, "quantize", base::moved_bytes, 3 * size * sizeof(uint32_t));
    room.pairs.reserve(size);
    kernels::round_to_pairs(x, room.pairs.span().first(size), threads);
    input.pairs = room.pairs.span().first(size);
  }
  kernels::packed_forward(groups, input, products, threads);
}

}  // namespace

void linear_forward(Matrix<const float> x, std::initializer_list<LinearMap> maps, PackedRoom& room, Threads& threads,
                    kernels::Sums sums) {
  constexpr size_t kMost = 4;
  CHOIR_CHECK(maps.size() <= kMost, std::to_string(maps.size()) + " maps");
  std::array<Product, kMost> packed;
  size_t count = 0;
  for (const auto& [w, bias, y] : maps) {
    if (w.packed())
      packed[count++] = {{&w, 1}, y};
    else
      kernels::gemm_forward(x, w, y, threads, sums);
  }
  const std::array<int32_t, 2> all{0, x.rows};
  if (count > 0) multiply_packed({all, {}}, x, std::span(packed).first(count), room, threads);
  for (const auto& [w, bias, y] : maps) {
    if (!bias.data) continue;
    CHOIR_CHECK(bias.size() == static_cast<size_t>(y.cols), std::to_string(bias.size()) + " numbers of a bias");
    add_to_rows(tensor::as_vector(bias), y, threads);
  }
}

void experts_linear_forward(const Groups& groups, Matrix<const float> x, std::span<const Product> products,
                            PackedRoom& room, Threads& threads, kernels::Sums sums) {
  const auto packed = [](const Product& p) { return !p.w.empty() && p.w.front().packed(); };
  if (std::ranges::all_of(products, packed)) return multiply_packed(groups, x, products, room, threads);
  for (const Product& p : products) {
    if (packed(p))
      multiply_packed(groups, x, {&p, 1}, room, threads);
    else
      kernels::grouped_forward(groups, x, p.w, p.y, threads, sums);
  }
}

void linear_backward_weight(Matrix<const float> dy, Matrix<const float> x, Matrix<float> dw, Matrix<float> dbias,
                            Threads& threads, kernels::Sums sums) {
  kernels::gemm_backward_weight(dy, x, dw, threads, sums);
  if (!dbias.data) return;
  CHOIR_CHECK(dbias.rows == 1 && dbias.cols == dy.cols, std::to_string(dbias.cols) + " numbers of a bias");
  add_rows(dy, dbias.row(0), threads);
}

}  // namespace choir::nn
