// What a search for the experts to keep costs beside the forward that it stands on.
//
//   prune_search [--experts 128] [--top-k 8] [--ranks 0] [--keep 64] [--width 1024] [--expert-width 384]
//                [--tokens 4096] [--restarts 4] [--repeats 5] [--threads 0] [--clock wall] [--seed 1]
//
// One layer with random weights whose experts resemble one another in groups of eight, random inputs, a router that
// prefers some experts. --ranks 0: as many as the library takes for --keep. Each repeat runs, in turn: the forward of
// the top m experts alone (route, experts, combine); the same with its record; a search on the record: set up, the
// elimination, the swaps with --restarts. Prints CSV: a line for each repeat, then the medians, and `ratio`: the median
// of (record + search) / forward of the same repeat.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/rng.h"
#include "bench/samples.h"
#include "compress/observe.h"
#include "compress/search.h"

namespace {

using namespace choir;
using bench::median, bench::Options, bench::read_options;
using tensor::Buffer;
using tensor::Matrix;

Options options_of(int argc, char** argv) {
  return read_options(argc, argv,
                      {{"--experts", "128"},
                       {"--top-k", "8"},
                       {"--ranks", "0"},
                       {"--keep", "64"},
                       {"--width", "1024"},
                       {"--tokens", "4096"},
                       {"--repeats", "5"},
                       {"--restarts", "4"},
                       {"--expert-width", "384"},
                       {"--seed", "1"},
                       {"--clock", "wall"},
                       {"--threads", "0"}});
}

struct Layer {
  int experts, top_k, width, tokens;
  std::vector<Buffer<float>> numbers;
  moe::MoeTensors<tensor::Weight> tensors;
  moe::Router router;
  Matrix<const float> x;

  // As random as 1 / sqrt(cols) asks, the shared part of a group first.
  tensor::Weight random(base::Rng& rng, int rows, int cols, const float* shared = nullptr) {
    numbers.emplace_back(static_cast<size_t>(rows) * static_cast<size_t>(cols));
    const std::span<float> v = numbers.back().span();
    const float scale = 1 / std::sqrt(static_cast<float>(cols));
    for (size_t i = 0; i < v.size(); ++i) v[i] = scale * rng.normal();
    for (size_t i = 0; shared && i < v.size(); ++i) v[i] = std::sqrt(0.5f) * (v[i] + shared[i]);
    return {numbers.back().data(), tensor::DType::kF32, rows, cols};
  }

  explicit Layer(const Options& options)
      : experts(std::stoi(options.at("--experts"))),
        top_k(std::stoi(options.at("--top-k"))),
        width(std::stoi(options.at("--width"))),
        tokens(std::stoi(options.at("--tokens"))),
        router(moe::parse_router("linear > top_k(" + options.at("--top-k") + ") > all > chosen")) {
    constexpr int kAlike = 8;  // experts of a group
    base::Rng rng(std::stoull(options.at("--seed")));
    const int f = std::stoi(options.at("--expert-width"));
    tensors.gate = {random(rng, experts, width)};
    for (int e = 0; e < experts; ++e) {
      const auto like = static_cast<size_t>(e - e % kAlike);
      const auto shared = [&](const std::vector<tensor::Weight>& of) {
        return e % kAlike ? static_cast<const float*>(of[like].data) : nullptr;
      };
      tensors.w1.push_back(random(rng, f, width, shared(tensors.w1)));
      tensors.w2.push_back(random(rng, width, f, shared(tensors.w2)));
      tensors.w3.push_back(random(rng, f, width, shared(tensors.w3)));
    }
    random(rng, tokens, width);
    for (float& v : numbers.back().span()) v = 0.3f + v * std::sqrt(static_cast<float>(width));
    x = numbers.back().matrix(tokens, width);
  }

  compress::LayerView view() const { return {router, tensors}; }
};

class Laps {
 public:
  explicit Laps(bool cpu) : cpu_(cpu), last_(now()) {}
  double lap() {
    const double before = std::exchange(last_, now());
    return last_ - before;
  }

 private:
  double now() const { return cpu_ ? static_cast<double>(std::clock()) / CLOCKS_PER_SEC : watch_.seconds(); }

  base::Stopwatch watch_;
  bool cpu_;
  double last_;
};

// One call for each chunk of tokens, as the library takes them.
template <class Function>
void by_chunks(const Layer& layer, const Buffer<float>& z, const Function& function) {
  constexpr int kChunk = 256;
  for (int first = 0; first < layer.tokens; first += kChunk) {
    const int count = std::min(kChunk, layer.tokens - first);
    function(layer.x.slice_rows(first, count), z.matrix(layer.tokens, layer.width).slice_rows(first, count));
  }
}

constexpr size_t kTimes = 5;  // forward, record, set up, eliminate, swaps
using Times = std::array<double, kTimes>;

struct Found {
  double eliminated = 0, swapped = 0;  // J
  int64_t short_of = 0;
};

Times one_repeat(const Layer& layer, int ranks, const Options& options, base::Threads& threads, Found& found) {
  const int keep = std::stoi(options.at("--keep"));
  const Buffer<float> z(static_cast<size_t>(layer.tokens) * static_cast<size_t>(layer.width));
  Times times;
  Laps laps(options.at("--clock") == "cpu");
  compress::Capture capture;
  by_chunks(layer, z, [&](Matrix<const float> x, Matrix<float> out) {
    compress::run_capture(layer.view(), x, ranks, capture, threads);
    compress::own_output(capture, out, threads);
  });
  times[0] = laps.lap();
  compress::LayerRecord record;
  compress::LayerObserver observer(layer.view(), ranks, record, threads);
  by_chunks(layer, z, [&](Matrix<const float> x, Matrix<float> out) { observer.add(x, x, out); });
  observer.end_batch();
  observer.finish();
  times[1] = laps.lap();
  compress::Replay replay(record, {}, threads);
  times[2] = laps.lap();
  const compress::Elimination elimination = compress::eliminate(replay, keep);
  times[3] = laps.lap();
  found.short_of = replay.short_of();
  laps.lap();
  const auto best = compress::search(replay, elimination, keep, {.restarts = std::stoi(options.at("--restarts"))});
  times[4] = laps.lap();
  found.eliminated = elimination.loss[static_cast<size_t>(keep)];
  found.swapped = best[0].loss;
  return times;
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = options_of(argc, argv);
  const Layer layer(options);
  base::Threads threads(std::stoi(options.at("--threads")));
  int ranks = std::stoi(options.at("--ranks"));
  if (ranks == 0) ranks = compress::ranks_for(layer.experts, layer.top_k, std::stoi(options.at("--keep")));
  std::printf(
      "# experts %d, top %d, ranks %d, keep %s, width %d, expert width %d, tokens %d, restarts %s, threads %d, %s\n",
      layer.experts, layer.top_k, ranks, options.at("--keep").c_str(), layer.width, layer.tensors.w1[0].rows,
      layer.tokens, options.at("--restarts").c_str(), threads.count(), options.at("--clock").c_str());
  std::printf("run,forward,record,set_up,eliminate,swaps,ratio\n");
  std::vector<std::vector<double>> columns(kTimes + 1);
  Found found;
  for (int i = 0; i < std::stoi(options.at("--repeats")); ++i) {
    const Times times = one_repeat(layer, ranks, options, threads, found);
    for (size_t c = 0; c < times.size(); ++c) columns[c].push_back(times[c]);
    columns.back().push_back((times[1] + times[2] + times[3] + times[4]) / times[0]);
    std::printf("%d", i);
    for (const auto& column : columns) std::printf(",%.4f", column.back());
    std::printf("\n");
    std::fflush(stdout);
  }
  std::printf("median");
  for (const auto& column : columns) std::printf(",%.4f", median(column));
  std::printf("\n# loss %.6g after the elimination, %.6g after the swaps; %lld tokens short\n", found.eliminated,
              found.swapped, static_cast<long long>(found.short_of));
}
