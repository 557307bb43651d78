// What does it cost that a row of attention has the same bits alone and among others? Attention for inference, which
// keeps to that (kernels/attention.h), beside the one for training (kernels/attention_packed.h), which does not, on the
// prompt of one sequence, in turn. Inference puts its keys and values into a cache first, as a prefill does.
// And how fast does one more token read the keys and values of its context? Beside the read rate of the memory: the
// contexts of successive calls are as many as a quarter of a gigabyte holds, so none of them is in a cache.
//
//   bench_attention [--phase decode] [--repeats N]    CSV on stdout: medians
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/rng.h"
#include "bench/samples.h"
#include "kernels/attention.h"
#include "kernels/attention_packed.h"
#include "kernels/key_blocks.h"
#include "kernels/peak.h"
#include "tensor/buffer.h"

namespace choir::bench {
namespace {

using kernels::AttentionInput;
using kernels::AttentionShape;
using tensor::Buffer;

constexpr int64_t kFar = int64_t{256} << 20;
constexpr double kSeconds = 0.1;  // of one measurement

constexpr AttentionShape kShapes[] = {{.heads = 16, .kv_heads = 16, .head_width = 64},
                                      {.heads = 32, .kv_heads = 8, .head_width = 128},
                                      {.heads = 8, .kv_heads = 1, .head_width = 128}};

Buffer<float> random(int64_t size, uint64_t seed) {
  Buffer<float> numbers(static_cast<size_t>(size));
  base::Rng rng(seed);
  for (float& x : numbers.span()) x = rng.normal();
  return numbers;
}

// Calls a second, of body().
template <class Body>
double rate(const Body& body) {
  const base::Stopwatch watch;
  int calls = 0;
  do {
    body();
    ++calls;
  } while (watch.seconds() < kSeconds);
  return calls / watch.seconds();
}

struct Outputs {
  tensor::Matrix<float> out, log_sum;
};

struct Cache {
  int count, blocks;  // of sequences, and of each of their heads
  AttentionShape shape;
  Buffer<float> k, v;

  Cache(int sequences, int tokens, const AttentionShape& s)
      : count(sequences),
        blocks(kernels::in_blocks(tokens) / kernels::kKeyBlock),
        shape(s),
        k(random(int64_t{count} * blocks * s.kv_heads * s.key_block(), 1)),
        v(random(int64_t{count} * blocks * s.kv_heads * s.value_block(), 2)) {}
  kernels::KeyBlocks matrices() const {
    const int rows = count * blocks * shape.kv_heads;
    return {k.matrix(rows, shape.key_block()), v.matrix(rows, shape.value_block()), blocks};
  }
  // Stores the rows' keys and values first.
  void attend(AttentionInput in, const Outputs& to, base::Threads& threads) const {
    kernels::store_keys(in, matrices(), threads);
    in.k = matrices().k;
    in.v = matrices().v;
    in.blocks = blocks;
    const Buffer<float> room = Buffer<float>::unset(kernels::attention_room(in));
    in.room = room.span();
    kernels::attention_forward(in, to.out, to.log_sum, threads);
  }
};

struct Prompt {
  Prompt(int length, const AttentionShape& s)
      : shape(s),
        sequence{0, length, 0, 0},
        cache(1, length, s),
        q(random(int64_t{length} * s.heads * s.head_width, 1)),
        k(random(int64_t{length} * s.kv_heads * s.head_width, 2)),
        v(random(int64_t{length} * s.kv_heads * s.head_width, 3)),
        out(q.size()),
        log_sum(static_cast<size_t>(length * s.heads)) {}

  // Two operations for each of the products with keys and with values.
  double operations() const { return 2.0 * shape.heads * shape.head_width * sequence.count * (sequence.count + 1.0); }

  AttentionInput rows() const {
    const int n = sequence.count, narrow = shape.kv_heads * shape.head_width;
    return {
        shape, {&sequence, 1}, q.matrix(n, shape.heads * shape.head_width), k.matrix(n, narrow), v.matrix(n, narrow)};
  }
  Outputs outputs() const {
    return {out.matrix(sequence.count, shape.heads * shape.head_width), log_sum.matrix(sequence.count, shape.heads)};
  }
  void train(base::Threads& threads) const {
    kernels::attention_forward_packed(rows(), outputs().out, outputs().log_sum, threads);
  }
  void infer(base::Threads& threads) const { cache.attend(rows(), outputs(), threads); }

  AttentionShape shape;
  kernels::Sequence sequence;
  Cache cache;
  Buffer<float> q, k, v, out, log_sum;
};

void prefill(int repeats, base::Threads& threads) {
  fmt::print("tokens,heads,kv_heads,head_width,peak_gflops,inference_gflops,inference_percent,training_gflops,ratio\n");
  for (const AttentionShape& shape : kShapes)
    for (const int tokens : {512, 2048}) {
      const Prompt prompt(tokens, shape);
      std::vector<double> inference, training, ratio, peak;
      for (int i = 0; i <= repeats; ++i) {  // the first warms up
        const double a = prompt.operations() * rate([&] { prompt.infer(threads); }),
                     b = prompt.operations() * rate([&] { prompt.train(threads); }),
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

// Bytes of keys and values a second, of one more token behind each of many contexts in turn.
double decode_rate(const Cache& cache, int tokens, base::Threads& threads) {
  const AttentionShape& shape = cache.shape;
  const int wide = shape.heads * shape.head_width, narrow = shape.kv_heads * shape.head_width;
  const Buffer<float> q = random(wide, 3), k = random(narrow, 4), out(q.size()), log_sum(q.size());
  int turn = 0;
  const double calls = rate([&] {
    const kernels::Sequence one{0, 1, tokens - 1, turn * cache.blocks * kernels::kKeyBlock};
    turn = (turn + 1) % cache.count;
    cache.attend({shape, {&one, 1}, q.matrix(1, wide), k.matrix(1, narrow), k.matrix(1, narrow)},
                 {out.matrix(1, wide), log_sum.matrix(1, shape.heads)}, threads);
  });
  return calls * tokens * 2 * narrow * sizeof(float);
}

void decode(int repeats, base::Threads& threads) {
  fmt::print("context,heads,kv_heads,head_width,read_gb_s,decode_gb_s,percent\n");
  for (const AttentionShape& shape : kShapes)
    for (const int tokens : {512, 2048, 8192}) {
      const Cache cache(static_cast<int>(kFar / (int64_t{8} * tokens * shape.kv_heads * shape.head_width)), tokens,
                        shape);
      std::vector<double> decoding, reading, share;
      for (int i = 0; i <= repeats; ++i) {
        const double a = decode_rate(cache, tokens, threads), b = kernels::measure_read_bandwidth(threads);
        if (i == 0) continue;
        decoding.push_back(a);
        reading.push_back(b);
        share.push_back(a / b);
      }
      fmt::print("{},{},{},{},{:.1f},{:.1f},{:.0f}\n", tokens, shape.heads, shape.kv_heads, shape.head_width,
                 median(reading) * 1e-9, median(decoding) * 1e-9, 100 * median(share));
    }
}

}  // namespace
}  // namespace choir::bench

int main(int argc, char** argv) {
  using namespace choir;
  const bench::Options options = bench::read_options(argc, argv, {{"--repeats", "5"}, {"--phase", "prefill"}});
  const int repeats = std::max(1, std::stoi(options.at("--repeats")));
  base::Threads threads(2);
  if (options.at("--phase") == "decode")
    bench::decode(repeats, threads);
  else
    bench::prefill(repeats, threads);
}
