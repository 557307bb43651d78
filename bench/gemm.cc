// Which matrix product is fastest on the shapes of experts? Eight experts, forward and both backwards: Choir's grouped
// tiles on weights as they lie and, for the forward, packed beforehand, and the libraries of peers.h, in turn within
// one run. All must give the same numbers.
//
//   bench_gemm [--repeats 5] [--in 0] [--rows 0]    CSV on stdout; of one width in and of one number of rows, 0: of all
//
// Set OPENBLAS_CORETYPE for the machine (Debian's build does not know newer ones); the core it chose is printed.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/rng.h"
#include "bench/peers.h"
#include "bench/samples.h"
#include "kernels/packed_gemm.h"
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
  Groups groups() const { return {offset, {}}; }
  Matrix<float> input() const { return x.matrix(total, shape.in); }
  Matrix<float> output() const { return y.matrix(total, shape.out); }
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

const Buffer<float>& result_of(Product product, const Problem& p) {
  return product == Product::kForward ? p.y : product == Product::kBackwardInput ? p.dx : p.dw;
}

using Run = std::function<void()>;  // empty: there is no such product

Run as_it_lies(Product product, const Problem& p, base::Threads& threads) {
  if (product == Product::kForward)
    return [&] { kernels::grouped_forward(p.groups(), p.input(), p.weights, p.output(), threads); };
  if (product == Product::kBackwardWeight)
    return [&] { kernels::grouped_backward_weight(p.groups(), p.output(), p.input(), p.gradients, threads); };
  return [&] {
    kernels::grouped_backward_input(p.groups(), p.output(), p.matrices, p.dx.matrix(p.total, p.shape.in),
                                    kernels::Write::kSet, threads);
  };
}

Run packed(Product product, const Problem& p, base::Threads& threads) {
  if (product != Product::kForward) return {};
  struct Packed {
    std::vector<Weight> weights;
    Buffer<std::byte> bytes;
  };
  const auto w = std::make_shared<Packed>(Packed{p.weights, Buffer<std::byte>(kernels::packed_bytes(p.weights))});
  kernels::pack(w->weights, w->bytes.span(), threads);
  return [&, w] {
    const kernels::Product to{w->weights, p.output()};
    kernels::packed_forward(p.groups(), {p.input()}, {&to, 1}, threads);
  };
}

// C (rows,cols) = A B, each possibly transposed as it lies in memory.
std::vector<Multiply> calls_of(Product product, const Problem& p) {
  const auto& [m, i, o] = p.shape;
  std::vector<Multiply> calls;
  for (int e = 0; e < kExperts; ++e) {
    float* x = p.x.data() + Problem::area(e * m, i);
    float* y = p.y.data() + Problem::area(e * m, o);
    float* w = p.w.data() + Problem::area(e * o, i);
    if (product == Product::kForward) calls.push_back({false, true, m, o, i, x, w, y, 0});
    if (product == Product::kBackwardInput)
      calls.push_back({false, false, m, i, o, y, w, p.dx.data() + Problem::area(e * m, i), 0});
    if (product == Product::kBackwardWeight)
      calls.push_back({true, false, o, i, m, y, x, p.dw.data() + Problem::area(e * o, i), 1});
  }
  return calls;
}

struct Engine {
  std::string name;
  std::function<Run(Product, const Problem&, base::Threads&)> prepare;
};

std::vector<Engine> all_engines() {
  std::vector<Engine> engines{{"choir", as_it_lies}, {"choir_packed", packed}};
  for (const Peer& peer : all_peers())
    engines.push_back({peer.name, [peer](Product product, const Problem& p, base::Threads& threads) {
                         return peer.prepare(calls_of(product, p), threads);
                       }});
  return engines;
}

// Ends the program when an engine's numbers are not those of the first.
void check(const std::vector<Engine>& engines, const std::vector<Run>& runs, Product product, const Problem& p) {
  const Buffer<float>& result = result_of(product, p);
  std::vector<float> expected;
  for (size_t k = 0; k < runs.size(); ++k) {
    if (!runs[k]) continue;
    std::ranges::fill(result.span(), 0.0f);
    runs[k]();
    if (k == 0) expected.assign(result.span().begin(), result.span().end());
    double most = 0, off = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      most = std::max<double>(most, std::abs(expected[i]));
      off = std::max<double>(off, std::abs(expected[i] - result[i]));
    }
    if (off <= 1e-5 * most) continue;
    fmt::print(stderr, "{} is wrong by {} of {} in {}\n", engines[k].name, off, most, name_of(product));
    std::exit(1);
  }
}

double rate(const Problem& p, const Run& run) {
  const int times = std::max(1, static_cast<int>(2e8 / p.flops()));
  const base::Stopwatch watch;
  for (int i = 0; i < times; ++i) run();
  return p.flops() * times / watch.seconds() / 1e9;
}

void measure(const std::vector<Engine>& engines, Product product, const Shape& shape, int repeats,
             base::Threads& threads) {
  const Problem problem(shape);
  std::vector<Run> runs;
  for (const Engine& engine : engines) runs.push_back(engine.prepare(product, problem, threads));
  check(engines, runs, product, problem);
  std::vector<std::vector<double>> rates(engines.size());
  std::vector<double> peaks;
  for (int r = 0; r <= repeats; ++r) {
    for (size_t k = 0; k < runs.size(); ++k) {
      const double now = runs[k] ? rate(problem, runs[k]) : 0;
      if (r > 0) rates[k].push_back(now);  // the first round warms up
    }
    peaks.push_back(kernels::measure_peak_flops(threads) / 1e9);
  }
  const double peak = median(peaks);
  fmt::print("{},{},{},{},{:.0f}", name_of(product), shape.rows, shape.in, shape.out, peak);
  for (size_t k = 0; k < runs.size(); ++k)
    fmt::print("{}", runs[k] ? fmt::format(",{:.1f},{:.0f}", median(rates[k]), 100 * median(rates[k]) / peak) : ",,");
  fmt::print("\n");
  std::fflush(stdout);
}

void run(const Options& options) {
  base::Threads threads(0);
  const std::vector<Engine> engines = all_engines();
  fmt::print(stderr, "{} threads: {:.0f} GFLOP/s of multiply-adds, {:.1f} GB/s read from memory\n", threads.count(),
             kernels::measure_peak_flops(threads) / 1e9, kernels::measure_read_bandwidth(threads) / 1e9);
  fmt::print("product,rows_per_expert,in,out,peak_gflops");
  for (const Engine& engine : engines) fmt::print(",{0},{0}_percent", engine.name);
  fmt::print("\n");
  const int repeats = std::max(1, std::stoi(options.at("--repeats")));
  const auto asked = [&](const char* option, int value) {
    const int only = std::stoi(options.at(option));
    return only == 0 || only == value;
  };
  for (const auto& [in, out] : {std::pair{256, 288}, {288, 256}, {512, 1792}, {1024, 3584}})
    for (const int rows : {1, 4, 16, 64, 256})
      if (asked("--in", in) && asked("--rows", rows))
        for (const Product product : {Product::kForward, Product::kBackwardInput, Product::kBackwardWeight})
          measure(engines, product, {rows, in, out}, repeats, threads);
}

}  // namespace
}  // namespace choir::bench

int main(int argc, char** argv) {
  using namespace choir::bench;
  run(read_options(argc, argv, {{"--repeats", "5"}, {"--in", "0"}, {"--rows", "0"}}));
}
