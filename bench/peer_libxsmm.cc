// libxsmm makes kernels of one shape and leaves loops, threads and layout to its caller. Its matrices are column-major,
// so that c^T (n,m) = b^T a^T: its first operand is our b. A kernel adds up all blocks along k in one call
// (batch-reduce). Tiles have at most 32 rows and 64 columns, or 32 for dx: measured the best of
// seven sizes.
#include <libxsmm.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "bench/peers.h"
#include "tensor/buffer.h"

namespace choir::bench {
namespace {

using Kernel = libxsmm_smmfunction_reducebatch_strd;
constexpr int kRows = 32, kDepth = 128;

// The largest part of size, not above most, that it divides into.
int part(int size, int most) {
  int n = std::min(size, most);
  while (size % n) --n;
  return n;
}

struct Tiles {
  explicit Tiles(const Multiply& c)
      : rows(part(c.m, kRows)),
        cols(part(c.n, c.transpose_a || c.transpose_b ? 64 : 32)),
        depth(part(c.k, kDepth)),
        count(c.k / depth) {
    const int lda = c.transpose_b ? cols : c.n, ldb = c.transpose_a ? c.m : c.k, ldc = c.n;
    const int stride_a = depth * lda, stride_b = depth * (c.transpose_a ? c.m : 1);
    const int flags = c.transpose_a ? LIBXSMM_GEMM_FLAG_TRANS_B : LIBXSMM_GEMM_FLAG_NONE;
    const float alpha = 1;
    constexpr int kBytes = sizeof(float);
    kernel = libxsmm_smmdispatch_reducebatch_strd(cols, rows, depth, stride_a * kBytes, stride_b * kBytes, &lda, &ldb,
                                                  &ldc, &alpha, &c.beta, &flags, nullptr);
    CHOIR_CHECK(kernel, "libxsmm makes no kernel for this shape");
  }

  int rows, cols, depth;
  unsigned long long count;
  Kernel kernel;
};

// b of all calls, stored as (n,k), as blocks (n / cols, k, cols).
tensor::Buffer<float> pack(const std::vector<Multiply>& calls, int cols) {
  const size_t n = static_cast<size_t>(calls[0].n), k = static_cast<size_t>(calls[0].k);
  tensor::Buffer<float> packed(calls.size() * n * k);
  float* to = packed.data();
  for (const Multiply& call : calls)
    for (size_t block = 0; block < n; block += static_cast<size_t>(cols))
      for (size_t at = 0; at < k; ++at)
        for (size_t col = block; col < block + static_cast<size_t>(cols); ++col) *to++ = call.b[col * k + at];
  return packed;
}

// All rows of columns [col, col + cols) of one expert; b is what the kernel reads there.
void run_columns(const Multiply& c, const Tiles& tiles, const float* b, int col) {
  for (int row = 0; row < c.m; row += tiles.rows) {
    const float* a = c.a + static_cast<size_t>(row) * static_cast<size_t>(c.transpose_a ? 1 : c.k);
    tiles.kernel(b, a, c.c + static_cast<size_t>(row) * static_cast<size_t>(c.n) + col, &tiles.count);
  }
}

std::function<void()> prepare(const std::vector<Multiply>& calls, base::Threads& threads) {
  const Tiles tiles(calls[0]);
  const bool packs = calls[0].transpose_b;
  const auto packed =
      std::make_shared<const tensor::Buffer<float>>(packs ? pack(calls, tiles.cols) : tensor::Buffer<float>());
  return [=, &threads] {
    const int blocks = calls[0].n / tiles.cols;
    threads.for_each(static_cast<int>(calls.size()) * blocks, [&](int task) {
      const Multiply& call = calls[static_cast<size_t>(task / blocks)];
      const int col = task % blocks * tiles.cols;
      const float* b =
          packs ? packed->data() + static_cast<size_t>(task) * static_cast<size_t>(tiles.cols * call.k) : call.b + col;
      run_columns(call, tiles, b, col);
    });
  };
}

}  // namespace

void add_libxsmm(std::vector<Peer>& peers) {
  peers.push_back({"libxsmm_" + std::string(libxsmm_get_target_arch()), prepare});
}

}  // namespace choir::bench
