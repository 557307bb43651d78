// What does it cost that a row of attention has the same bits alone and among others? Attention for inference, which
// keeps to that (kernels/attention.h), beside the one for training (kernels/attention_packed.h), which does not, on the
// prompt of one sequence, in turn.
//
//   bench_attention [--repeats N]    CSV on stdout: medians, GFLOP/s, and percent of the peak of multiply-adds
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/rng.h"
#include "kernels/attention.h"
#include "kernels/attention_packed.h"
#include "kernels/peak.h"
#include "tensor/buffer.h"

namespace choir::bench {
namespace {

using tensor::Buffer;

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

struct Prompt {
  Prompt(int length, const kernels::AttentionShape& s)
      : shape(s),
        sequence{0, length, 0, 0},
        q(random(s.heads * s.head_width, 1)),
        k(random(s.kv_heads * s.head_width, 2)),
        v(random(s.kv_heads * s.head_width, 3)),
        out(q.size()),
        log_sum(static_cast<size_t>(length * s.heads)) {}

  Buffer<float> random(int cols, uint64_t seed) const {
    Buffer<float> numbers(static_cast<size_t>(sequence.count) * static_cast<size_t>(cols));
    base::Rng rng(seed);
    for (float& x : numbers.span()) x = rng.normal();
    return numbers;
  }

  // Two operations for each of the products with keys and with values.
  double operations() const { return 2.0 * shape.heads * shape.head_width * sequence.count * (sequence.count + 1.0); }

  template <class Attention>
  double rate(const Attention& attention, base::Threads& threads) const {
    const int n = sequence.count, wide = shape.heads * shape.head_width, narrow = shape.kv_heads * shape.head_width;
    const base::Stopwatch watch;
    int calls = 0;
    do {
      attention({shape, {&sequence, 1}, q.matrix(n, wide), k.matrix(n, narrow), v.matrix(n, narrow)},
                out.matrix(n, wide), log_sum.matrix(n, shape.heads), threads);
      ++calls;
    } while (watch.seconds() < 0.1);
    return calls * operations() / watch.seconds();
  }

  kernels::AttentionShape shape;
  kernels::Sequence sequence;
  Buffer<float> q, k, v, out, log_sum;
};

void run(int repeats) {
  base::Threads threads(2);
  fmt::print("tokens,heads,kv_heads,head_width,peak_gflops,inference_gflops,inference_percent,training_gflops,ratio\n");
  for (const kernels::AttentionShape& shape : {kernels::AttentionShape{.heads = 16, .kv_heads = 16, .head_width = 64},
                                               {.heads = 32, .kv_heads = 8, .head_width = 128}})
    for (const int tokens : {512, 2048}) {
      const Prompt prompt(tokens, shape);
      std::vector<double> inference, training, ratio, peak;
      for (int i = 0; i <= repeats; ++i) {  // the first warms up
        const double a = prompt.rate(kernels::attention_forward, threads),
                     b = prompt.rate(kernels::attention_forward_packed, threads),
                     p = kernels::measure_peak_flops(threads);
        if (i == 0) continue;
        inference.push_back(a);
        training.push_back(b);
        ratio.push_back(a / b);
        peak.push_back(p);
      }
      fmt::print("{},{},{},{},{:.0f},{:.0f},{:.0f},{:.0f},{:.2f}\n", tokens, shape.heads, shape.kv_heads,
                 shape.head_width, median(peak) * 1e-9, median(inference) * 1e-9,
                 100 * median(inference) / median(peak), median(training) * 1e-9, median(ratio));
    }
}

}  // namespace
}  // namespace choir::bench

int main(int argc, char** argv) {
  const std::string option = argc > 1 ? argv[1] : "";
  choir::bench::run(option == "--repeats" && argc > 2 ? std::max(1, std::atoi(argv[2])) : 5);
}
