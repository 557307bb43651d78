// Which matrix product is fastest on the shapes of experts? Eight experts of unequal fill, forward and both backwards:
// Choir's grouped tiles, and one library call for each expert, in turn within one run.
//
//   bench_gemm [--repeats N]    CSV on stdout
//
// Set OPENBLAS_CORETYPE for the machine (Debian's build does not know newer ones); the core it chose is printed.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/rng.h"
#include "bench/peers.h"
#include "kernels/grouped_gemm.h"
#include "kernels/peak.h"
#include "tensor/buffer.h"

namespace choir::bench {
namespace {

using kernels::Groups;
using tensor::Buffer;
using tensor::Matrix;
using tensor::Weight;

constexpr int kExperts = 8;

struct Shape {
  int rows, in, out;  // rows of each expert
};

// One problem: x (8M,I), w (O,I) for each expert, dy (8M,O).
struct Problem {
  explicit Problem(const Shape& s)
      : shape(s),
        total(kExperts * s.rows),
        x(area(total, s.in)),
        w(area(kExperts * s.out, s.in)),
        dw(w.size()),
        y(area(total, s.out)),
        dx(x.size()) {
    base::Rng rng(1);
    for (const Buffer<float>* buffer : {&x, &w, &y})
      for (float& v : buffer->span()) v = rng.normal();
    for (int e = 0; e <= kExperts; ++e) offset.push_back(e * s.rows);
    for (int e = 0; e < kExperts; ++e) {
      weights.emplace_back(Matrix<const float>(w.data() + area(e * s.out, s.in), s.out, s.in));
      matrices.emplace_back(w.data() + area(e * s.out, s.in), s.out, s.in);
      gradients.emplace_back(dw.data() + area(e * s.out, s.in), s.out, s.in);
    }
  }

  static size_t area(int rows, int cols) { return static_cast<size_t>(rows) * static_cast<size_t>(cols); }
  double flops() const { return 2.0 * total * shape.in * shape.out; }

  Shape shape;
  int total;
  Buffer<float> x, w, dw, y, dx;
  std::vector<int32_t> offset;
  std::vector<Weight> weights;
  std::vector<Matrix<const float>> matrices;
  std::vector<Matrix<float>> gradients;
};

enum class Product { kForward, kBackwardInput, kBackwardWeight };

const char* name_of(Product product) {
  return product == Product::kForward         ? "forward"
         : product == Product::kBackwardInput ? "backward_input"
                                              : "backward_weight";
}

void run_own(Product product, const Problem& p, base::Threads& threads) {
  const Groups groups{p.offset, {}};
  const Matrix<float> x = p.x.matrix(p.total, p.shape.in), y = p.y.matrix(p.total, p.shape.out);
  if (product == Product::kForward) kernels::grouped_forward(groups, x, p.weights, y, threads);
  if (product == Product::kBackwardInput)
    kernels::grouped_backward_input(groups, y, p.matrices, p.dx.matrix(p.total, p.shape.in), kernels::Write::kSet,
                                    threads);
  if (product == Product::kBackwardWeight) kernels::grouped_backward_weight(groups, y, x, p.gradients, threads);
}

// C (rows,cols) = A B, each possibly transposed as it lies in memory.
void run_peer(const Peer& peer, Product product, const Problem& p) {
  const auto& [m, i, o] = p.shape;
  for (int e = 0; e < kExperts; ++e) {
    float* x = p.x.data() + Problem::area(e * m, i);
    float* y = p.y.data() + Problem::area(e * m, o);
    float* w = p.w.data() + Problem::area(e * o, i);
    if (product == Product::kForward) peer.multiply({false, true, m, o, i, x, w, y, 0});
    if (product == Product::kBackwardInput)
      peer.multiply({false, false, m, i, o, y, w, p.dx.data() + Problem::area(e * m, i), 0});
    if (product == Product::kBackwardWeight)
      peer.multiply({true, false, o, i, m, y, x, p.dw.data() + Problem::area(e * o, i), 1});
  }
}

double rate(const Problem& p, const std::function<void()>& run) {
  const int times = std::max(1, static_cast<int>(2e8 / p.flops()));
  const base::Stopwatch watch;
  for (int i = 0; i < times; ++i) run();
  return p.flops() * times / watch.seconds() / 1e9;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void measure(Product product, const Shape& shape, int repeats, base::Threads& threads) {
  const Problem problem(shape);
  const std::vector<Peer> peers = all_peers();
  std::vector<std::vector<double>> rates(peers.size() + 1);
  std::vector<double> peaks;
  for (int r = 0; r <= repeats; ++r) {
    const double own = rate(problem, [&] { run_own(product, problem, threads); });
    if (r > 0) rates[0].push_back(own);  // the first round warms up
    for (size_t k = 0; k < peers.size(); ++k) {
      const double peer = rate(problem, [&] { run_peer(peers[k], product, problem); });
      if (r > 0) rates[k + 1].push_back(peer);
    }
    peaks.push_back(kernels::measure_peak_flops(threads) / 1e9);
  }
  const double peak = median(peaks);
  fmt::print("{},{},{},{},{:.0f}", name_of(product), shape.rows, shape.in, shape.out, peak);
  for (const auto& values : rates) fmt::print(",{:.1f},{:.0f}", median(values), 100 * median(values) / peak);
  fmt::print("\n");
  std::fflush(stdout);
}

void run(int repeats) {
  base::Threads threads(0);
  const std::vector<Peer> peers = all_peers();
  fmt::print(stderr, "{} threads: {:.0f} GFLOP/s of multiply-adds, {:.1f} GB/s read from memory\n", threads.count(),
             kernels::measure_peak_flops(threads) / 1e9, kernels::measure_read_bandwidth(threads) / 1e9);
  fmt::print("product,rows_per_expert,in,out,peak_gflops,choir,choir_percent");
  for (const Peer& peer : peers) fmt::print(",{0},{0}_percent", peer.name);
  fmt::print("\n");
  for (const auto& [in, out] : {std::pair{256, 288}, {288, 256}, {512, 1792}, {1024, 3584}})
    for (const int rows : {1, 4, 16, 64, 256})
      for (const Product product : {Product::kForward, Product::kBackwardInput, Product::kBackwardWeight})
        measure(product, {rows, in, out}, repeats, threads);
}

}  // namespace
}  // namespace choir::bench

int main(int argc, char** argv) {
  const bool asked = argc == 3 && std::strcmp(argv[1], "--repeats") == 0;
  choir::bench::run(asked ? std::max(1, std::atoi(argv[2])) : 5);
}
