// How fast are products with packed weights (kernels/packed_gemm.h)? Two questions, each against what the machine can
// do at that moment: do one to four rows read weights as fast as memory gives them, and how near to the VNNI peak are
// many? Beside each stands the product that reads the file's blocks as they lie, in 32-bit floats.
//
//   bench_quant_gemm decode|prefill [--repeats N]    CSV on stdout
//
// decode: 8 experts at a time out of a pool that no cache holds. Gigabytes of weights a second, and percent of the read
// bandwidth. prefill: 8 experts in one launch. Operations, two for each product, and percent of the peak of bytes, or
// for bf16 of multiply-adds. Quantising the activations is part of every time.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/rng.h"
#include "bench/samples.h"
#include "kernels/packed_gemm.h"
#include "kernels/peak.h"
#include "tensor/buffer.h"

namespace choir::bench {
namespace {

using kernels::Groups;
using kernels::RowBlock;
using tensor::Buffer;
using tensor::DType;
using tensor::Matrix;
using tensor::Weight;

constexpr int kExperts = 8;  // of one call
constexpr size_t kPoolBytes = size_t{256} << 20;

struct Shape {
  DType type;
  int rows, in, out;  // rows of each expert
};

// Weights of a pool as they lie in a file and packed, activations for one call.
struct Problem {
  Problem(const Shape& s, size_t pool_bytes, base::Threads& threads)
      : shape(s),
        bytes(tensor::bytes_of(s.type, static_cast<size_t>(s.in)) * static_cast<size_t>(s.out)),
        calls(std::max<size_t>(1, pool_bytes / (bytes * kExperts))),
        x(static_cast<size_t>(kExperts * s.rows) * static_cast<size_t>(s.in)),
        y(static_cast<size_t>(kExperts * s.rows) * static_cast<size_t>(s.out)) {
    base::Rng rng(1);
    for (float& v : x.span()) v = rng.normal();
    for (int e = 0; e <= kExperts; ++e) offset.push_back(e * s.rows);
    blocks = Buffer<RowBlock>(kernels::blocks_of(groups(), s.in));
    pairs = Buffer<uint32_t>(static_cast<size_t>(positions()) * kernels::pairs_of(s.in));
    std::vector<float> row(static_cast<size_t>(s.in));
    for (size_t e = 0; e < calls * kExperts; ++e) {
      file.emplace_back(bytes);
      if (e == 0)
        fill(file[0], rng);
      else
        std::ranges::copy(file[0].span(), file.back().data());
      lying.emplace_back(file.back().data(), s.type, s.out, s.in);
      packed_file.emplace_back(kernels::packed_bytes({&lying.back(), 1}));
      packed.push_back(lying.back());
      kernels::pack({&packed.back(), 1}, packed_file.back().span(), threads);
    }
  }

  // Any codes; scales, wherever a block has them, that neither overflow nor vanish.
  void fill(const Buffer<std::byte>& to, base::Rng& rng) const {
    const size_t block = tensor::block_of(shape.type).bytes;
    for (size_t i = 0; i < to.size(); ++i)
      to[i] = static_cast<std::byte>(0x28 + rng.below(8) + ((i % block) % 2 == 0 ? rng.below(16) * 8 : 0));
  }

  Groups groups() const { return {offset, {}}; }
  int positions() const { return offset.back(); }
  double operations() const { return 2.0 * positions() * shape.in * shape.out; }
  Matrix<float> input() const { return x.matrix(positions(), shape.in); }
  Matrix<float> output() const { return y.matrix(positions(), shape.out); }

  void run_packed(size_t call, base::Threads& threads) const {
    std::span<RowBlock> rows;
    if (kernels::wants_blocks(shape.type)) kernels::quantize(groups(), input(), rows = blocks.span(), threads);
    const std::span<const Weight> w(packed.data() + call % calls * kExperts, kExperts);
    const kernels::Product product{w, output()};
    if (kernels::wants_pairs(shape.type)) kernels::round_to_pairs(input(), pairs.span(), threads);
    kernels::packed_forward(groups(), {input(), rows, pairs.span()}, {&product, 1}, threads);
  }
  void run_lying(size_t call, base::Threads& threads) const {
    const std::span<const Weight> w(lying.data() + call % calls * kExperts, kExperts);
    kernels::grouped_forward(groups(), input(), w, output(), threads);
  }

  Shape shape;
  size_t bytes, calls;
  Buffer<float> x, y;
  Buffer<RowBlock> blocks;
  Buffer<uint32_t> pairs;
  std::vector<int32_t> offset;
  std::vector<Buffer<std::byte>> file, packed_file;
  std::vector<Weight> lying;
  std::vector<Weight> packed;
};

// Calls a second: whole passes through the pool, of at least some tenths of a second.
double rate(const Problem& p, const std::function<void(size_t)>& run) {
  const base::Stopwatch watch;
  size_t done = 0;
  do {
    for (size_t call = 0; call < p.calls; ++call) run(done++);
  } while (watch.seconds() < 0.1);
  return static_cast<double>(done) / watch.seconds();
}

struct Medians {
  double packed, lying, peak;
};

// Of samples in turn; the first round warms up.
Medians measure(const Problem& p, int repeats, const std::function<double()>& peak, base::Threads& threads) {
  std::vector<double> packed, lying, peaks;
  for (int r = 0; r <= repeats; ++r) {
    const double now[] = {rate(p, [&](size_t call) { p.run_packed(call, threads); }),
                          rate(p, [&](size_t call) { p.run_lying(call, threads); }), peak()};
    if (r == 0) continue;
    packed.push_back(now[0]);
    lying.push_back(now[1]);
    peaks.push_back(now[2]);
  }
  return {median(packed), median(lying), median(peaks)};
}

const DType kTypes[] = {DType::kQ8_0,  DType::kQ4_0, DType::kQ4_K, DType::kQ6_K,
                        DType::kMXFP4, DType::kBF16, DType::kF32};

void decode(int repeats, base::Threads& threads) {
  fmt::print("type,rows_per_expert,in,out,read_gbs,packed_gbs,packed_percent,lying_gbs,lying_percent\n");
  for (const DType type : kTypes)
    for (const int rows : {1, 2, 4}) {
      const Shape shape{type, rows, 2048, 1024};
      const Problem p(shape, kPoolBytes, threads);
      const Medians m = measure(
          p, repeats, [&] { return kernels::measure_read_bandwidth(threads); }, threads);
      const double bytes = static_cast<double>(p.bytes * kExperts);
      fmt::print("{},{},{},{},{:.1f},{:.1f},{:.0f},{:.1f},{:.0f}\n", tensor::name_of(type), rows, shape.in, shape.out,
                 m.peak / 1e9, m.packed * bytes / 1e9, 100 * m.packed * bytes / m.peak, m.lying * bytes / 1e9,
                 100 * m.lying * bytes / m.peak);
      std::fflush(stdout);
    }
}

void prefill(int repeats, base::Threads& threads) {
  fmt::print("type,rows_per_expert,in,out,peak_gops,packed_gops,packed_percent,lying_gops,lying_percent\n");
  for (const DType type : kTypes)
    for (const auto& [in, out] : {std::pair{512, 1792}, {2048, 1024}})
      for (const int rows : {16, 64, 256}) {
        const Problem p({type, rows, in, out}, 1, threads);
        const auto peak = [&] {
          return kernels::wants_blocks(type) ? kernels::measure_peak_byte_operations(threads)
                                             : kernels::measure_peak_flops(threads);
        };
        const Medians m = measure(p, repeats, peak, threads);
        fmt::print("{},{},{},{},{:.0f},{:.0f},{:.0f},{:.0f},{:.0f}\n", tensor::name_of(type), rows, in, out,
                   m.peak / 1e9, m.packed * p.operations() / 1e9, 100 * m.packed * p.operations() / m.peak,
                   m.lying * p.operations() / 1e9, 100 * m.lying * p.operations() / m.peak);
        std::fflush(stdout);
      }
}

}  // namespace
}  // namespace choir::bench

int main(int argc, char** argv) {
  using namespace choir;
  const std::string question = argc > 1 ? argv[1] : "";
  if (question != "decode" && question != "prefill") {
    fmt::print(stderr, "bench_quant_gemm decode|prefill [--repeats N]\n");
    return 2;
  }
  const bench::Options options = bench::read_options(argc, argv, {{"--repeats", "5"}}, 2);
  const int repeats = std::max(1, std::stoi(options.at("--repeats")));
  base::Threads threads(0);
  fmt::print(stderr,
             "{} threads: {:.0f} GFLOP/s of multiply-adds, {:.0f} Gop/s of bytes, {:.1f} GB/s read from memory\n",
             threads.count(), kernels::measure_peak_flops(threads) / 1e9,
             kernels::measure_peak_byte_operations(threads) / 1e9, kernels::measure_read_bandwidth(threads) / 1e9);
  (question == "decode" ? bench::decode : bench::prefill)(repeats, threads);
}
