#include "kernels/weigh_rows.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "base/rng.h"
#include "kernels/isa.h"
#include "tensor/buffer.h"

namespace choir::kernels {
namespace {

TEST_CASE("weigh rows: the gradient of each weight and both weighted rows, at every width of a vector") {
  for (const Isa isa : {Isa::kPlain, Isa::kAvx2, Isa::kAvx512})
    for (const int cols : {1, 16, 37, 96}) {
      const IsaLimit limit(isa);
      constexpr int kRows = 41;
      base::Rng rng(static_cast<uint64_t>(cols));
      base::Threads threads(2);
      tensor::Buffer<float> dy(static_cast<size_t>(kRows * cols)), h(dy.size()), weight(kRows), dweight(kRows);
      for (const auto* buffer : {&dy, &h, &weight})
        for (float& v : buffer->span()) v = rng.normal();
      const std::vector<float> dy0(dy.span().begin(), dy.span().end()), h0(h.span().begin(), h.span().end());
      weigh_rows_backward(weight.span(), dy.matrix(kRows, cols), h.matrix(kRows, cols), dweight.span(), threads);
      for (size_t i = 0; i < kRows; ++i) {
        double dot = 0, size = 0;
        for (size_t f = i * static_cast<size_t>(cols); f < (i + 1) * static_cast<size_t>(cols); ++f) {
          dot += static_cast<double>(dy0[f]) * h0[f];
          size += std::abs(static_cast<double>(dy0[f]) * h0[f]);
          CHECK(dy[f] == dy0[f] * weight[i]);
          CHECK(h[f] == h0[f] * weight[i]);
        }
        CHECK(std::abs(dweight[i] - dot) <= 1e-6 * size);
      }
    }
}

}  // namespace
}  // namespace choir::kernels
