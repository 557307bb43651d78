// The search for the experts to drop, twice: one pass over the tokens, and the block run again for every set.
//
//   naee_search [--experts 8] [--width 512] [--expert-width 1792] [--tokens 4096] [--keep 6,4]
//               [--repeats 5] [--rerun-repeats 3] [--threads 0] [--seed 1]
//
// One layer with random weights, top-2 routing, one batch of random inputs. The two searches take turns. Prints CSV:
// a line for each run, then a line for each keep with the medians, their ratio, whether both chose the same set, and
// the largest relative difference of their losses.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>

#include "base/clock.h"
#include "base/rng.h"
#include "bench/samples.h"
#include "compress/choose.h"
#include "kernels/top_k.h"

namespace {

using namespace choir;
using bench::median, bench::Options, bench::read_options;
using compress::ExpertSet;
using tensor::Buffer;
using tensor::Matrix;

constexpr int kChunk = 512;  // as in the library's search
constexpr int kTopK = 2;

Options options_of(int argc, char** argv) {
  return read_options(argc, argv,
                      {{"--experts", "8"},
                       {"--width", "512"},
                       {"--expert-width", "1792"},
                       {"--tokens", "4096"},
                       {"--keep", "6,4"},
                       {"--repeats", "5"},
                       {"--rerun-repeats", "3"},
                       {"--threads", "0"},
                       {"--seed", "1"}});
}

struct Layer {
  int experts, width, tokens;
  std::vector<Buffer<float>> numbers;
  moe::MoeTensors<tensor::Weight> tensors;
  moe::Router router = moe::parse_router("linear > top_k(2) > all > chosen");
  Matrix<const float> x;

  tensor::Weight random(base::Rng& rng, int rows, int cols) {
    numbers.emplace_back(static_cast<size_t>(rows) * static_cast<size_t>(cols));
    const float scale = 1 / std::sqrt(static_cast<float>(cols));
    for (float& v : numbers.back().span()) v = scale * rng.normal();
    return {numbers.back().data(), tensor::DType::kF32, rows, cols};
  }

  Layer(const Options& options)
      : experts(std::stoi(options.at("--experts"))),
        width(std::stoi(options.at("--width"))),
        tokens(std::stoi(options.at("--tokens"))) {
    base::Rng rng(std::stoull(options.at("--seed")));
    const int f = std::stoi(options.at("--expert-width"));
    tensors.gate = {random(rng, experts, width)};
    for (int e = 0; e < experts; ++e) {
      tensors.w1.push_back(random(rng, f, width));
      tensors.w2.push_back(random(rng, width, f));
      tensors.w3.push_back(random(rng, f, width));
    }
    random(rng, tokens, width);
    for (float& v : numbers.back().span()) v *= std::sqrt(static_cast<float>(width));
    x = numbers.back().matrix(tokens, width);
  }
};

struct Outcome {
  std::vector<double> losses;  // in the order of combinations() of the dropped sets
  size_t best = 0;
  double seconds = 0;
};

void pick_best(Outcome& outcome) {
  outcome.best = static_cast<size_t>(std::ranges::min_element(outcome.losses) - outcome.losses.begin());
}

Outcome one_pass(const Layer& layer, int keep, base::Threads& threads) {
  const base::Stopwatch watch;
  compress::SubsetErrors errors(layer.experts, kTopK, keep);
  compress::Capture capture;
  const Buffer<float> z(static_cast<size_t>(kChunk) * static_cast<size_t>(layer.width));
  for (int first = 0; first < layer.tokens; first += kChunk) {
    const Matrix<const float> x = layer.x.slice_rows(first, std::min(kChunk, layer.tokens - first));
    compress::run_capture({layer.router, layer.tensors}, x, errors.ranks(), capture, threads);
    compress::own_output(capture, z.matrix(x.rows, x.cols), threads);
    errors.add(capture, z.matrix(x.rows, x.cols), threads);
  }
  errors.end_batch(threads);
  Outcome outcome;
  for (const std::vector<int>& dropped : compress::combinations(layer.experts, layer.experts - keep))
    outcome.losses.push_back(errors.loss(errors.all() ^ compress::as_set(dropped)));
  pick_best(outcome);
  outcome.seconds = watch.seconds();
  return outcome;
}

// The published procedure on one chunk: router, mask, softmax, top-2, renormalise, experts, combine.
struct Block {
  moe::MoeActivations activations;
  std::vector<int32_t> chosen;

  void run(const Layer& layer, const std::vector<int>& dropped, Matrix<const float> x, Matrix<float> z,
           base::Threads& threads) {
    moe::MoeStep step;
    step.tokens.x = x;
    layer.router.route(moe::context_of(layer.tensors, step, threads), moe::Balancing::kOff, activations.routing);
    const Matrix<float> logits = activations.routing.scores(layer.experts);
    chosen.resize(static_cast<size_t>(x.rows) * kTopK);
    for (int t = 0; t < x.rows; ++t) {
      for (const int e : dropped) logits[t][e] = -std::numeric_limits<float>::infinity();
      kernels::top_k(logits.row(t), std::span(chosen).subspan(static_cast<size_t>(t) * kTopK, kTopK));
    }
    moe::Plan& plan = activations.routing.plan;
    moe::build_plan(chosen, x.rows, kTopK, layer.experts, plan);
    moe::run_experts(plan, layer.tensors, x, activations, threads);
    for (int t = 0; t < x.rows; ++t) combine(logits[t], plan, t, z);
  }

 private:
  void combine(const float* logits, const moe::Plan& plan, int t, Matrix<float> z) const {
    const size_t at = static_cast<size_t>(t) * kTopK;
    const float second = std::exp(logits[chosen[at + 1]] - logits[chosen[at]]), sum = 1 + second;
    const float* a = activations.out.data() + static_cast<size_t>(plan.edge[at]) * static_cast<size_t>(z.cols);
    const float* b = activations.out.data() + static_cast<size_t>(plan.edge[at + 1]) * static_cast<size_t>(z.cols);
    for (int d = 0; d < z.cols; ++d) z[t][d] = 1 / sum * a[d] + second / sum * b[d];
  }
};

double squared_distance(const float* a, const float* b, size_t count) {
  constexpr size_t kLanes = 8;
  double sum[kLanes] = {};
  for (size_t i = 0; i < count; ++i) {
    const double difference = static_cast<double>(a[i]) - b[i];
    sum[i % kLanes] += difference * difference;
  }
  return (sum[0] + sum[4]) + (sum[1] + sum[5]) + (sum[2] + sum[6]) + (sum[3] + sum[7]);
}

Outcome rerun(const Layer& layer, int keep, base::Threads& threads) {
  const base::Stopwatch watch;
  const size_t size = static_cast<size_t>(layer.tokens) * static_cast<size_t>(layer.width);
  const Buffer<float> target(size), output(size);
  Block block;
  const auto run = [&](const std::vector<int>& dropped, const Buffer<float>& z) {
    for (int first = 0; first < layer.tokens; first += kChunk) {
      const int count = std::min(kChunk, layer.tokens - first);
      block.run(layer, dropped, layer.x.slice_rows(first, count),
                z.matrix(layer.tokens, layer.width).slice_rows(first, count), threads);
    }
  };
  run({}, target);
  Outcome outcome;
  for (const std::vector<int>& dropped : compress::combinations(layer.experts, layer.experts - keep)) {
    run(dropped, output);
    outcome.losses.push_back(std::sqrt(squared_distance(target.data(), output.data(), size)));
  }
  pick_best(outcome);
  outcome.seconds = watch.seconds();
  return outcome;
}

void compare(const Layer& layer, int keep, const Options& options, base::Threads& threads) {
  const int repeats = std::stoi(options.at("--repeats")), reruns = std::stoi(options.at("--rerun-repeats"));
  std::vector<double> fast, slow;
  Outcome one, many;
  for (int i = 0; i < std::max(repeats, reruns); ++i) {
    if (i < repeats) fast.push_back((one = one_pass(layer, keep, threads)).seconds);
    if (i < repeats) std::printf("run,%d,one_pass,%d,%.6f\n", keep, i, fast.back());
    if (i < reruns) slow.push_back((many = rerun(layer, keep, threads)).seconds);
    if (i < reruns) std::printf("run,%d,rerun,%d,%.6f\n", keep, i, slow.back());
    std::fflush(stdout);
  }
  double difference = 0;
  for (size_t i = 0; i < one.losses.size(); ++i)
    difference = std::max(difference, std::abs(one.losses[i] - many.losses[i]) / many.losses[i]);
  std::printf("median,%d,%.6f,%.6f,%.2f,%s,%.3g\n", keep, median(fast), median(slow), median(slow) / median(fast),
              one.best == many.best ? "yes" : "no", difference);
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = options_of(argc, argv);
  const Layer layer(options);
  base::Threads threads(std::stoi(options.at("--threads")));
  std::printf("# experts %d, width %d, expert width %d, tokens %d, threads %d\n", layer.experts, layer.width,
              layer.tensors.w1[0].rows, layer.tokens, threads.count());
  std::printf("# run,keep,search,repeat,seconds\n");
  std::printf("# median,keep,one_pass_seconds,rerun_seconds,ratio,same_winner,largest_relative_difference\n");
  const std::string& keeps = options.at("--keep");
  for (size_t at = 0; at < keeps.size(); at = std::min(keeps.find(',', at), keeps.size() - 1) + 1)
    compare(layer, std::stoi(keeps.substr(at)), options, threads);
}
