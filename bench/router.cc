// What routing costs: from scores to Plan, and its backward, beside the layer it serves.
//
//   router [--tokens 4096] [--width 512] [--experts 64] [--top-k 8] [--expert-width 512] [--repeats 7] [--threads 0]
//          [--seed 1]
//
// One layer with random weights on random tokens, under the training rule, after a few steps of the router's own
// numbers. Routers take turns, so that a slow minute hits all. Prints CSV: for each router the median microseconds a
// token of its forward and backward, those of the whole layer's, and the shares of the layer's time.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

#include "base/clock.h"
#include "base/rng.h"
#include "bench/samples.h"
#include "moe/layer.h"

namespace {

using namespace choir;
using bench::median, bench::Options, bench::read_options;
using tensor::Buffer;
using tensor::Matrix;
using tensor::Weight;

Options options_of(int argc, char** argv) {
  return read_options(argc, argv,
                      {{"--tokens", "4096"},
                       {"--width", "512"},
                       {"--experts", "64"},
                       {"--top-k", "8"},
                       {"--expert-width", "512"},
                       {"--repeats", "7"},
                       {"--threads", "0"},
                       {"--seed", "1"}});
}

// The rows of the table, with K choices where a router has K.
std::vector<std::string> expressions(const std::string& k) {
  const std::string top = "top_k(" + k + ")";
  return {"linear > " + top + " > all > chosen",
          "linear > " + top + " > all > chosen + load(0.01)",
          "linear > " + top + " > all > softmax(renorm) + load(0.01) + z_loss(0.001)",
          "linear(sigmoid) > " + top + " > all > sigmoid_norm + bias + load(0.0001, scope=sequence, of=sigmoid)",
          "linear > " + top + " > fifo(factor(1.1)) > softmax + load(0.01)",
          "linear > " + top + " > top_capacity(factor(1.1), key=prob) > softmax + load(0.01)",
          "linear > " + top + " > top_capacity(factor(1.1)) > softmax + load(0.01)",
          "dense_cosine > " + top + " > top_capacity(etr_sum) > softmax + load(0.01)",
          "grap > " + top + " > fifo(locmoe) > softmax + load(0.01) + locality(0.01)",
          "grap_cosine > " + top + " > top_capacity(factor(1.1)) > softmax + load(0.01)",
          "grap_cosine(center=ema) > " + top + " > top_capacity(etr_sum) > softmax + load(0.01) + locality(0.01)",
          "linear > all > top_capacity(factor(" + k + ", per=token), key=prob, decode=threshold) > softmax",
          "hash > top_k(1) > all > identity"};
}

struct Numbers {
  std::vector<Buffer<float>> owned;
  base::Rng rng;

  Matrix<float> random(int rows, int cols, float deviation) {
    owned.emplace_back(static_cast<size_t>(rows) * static_cast<size_t>(cols));
    for (float& v : owned.back().span()) v = deviation * rng.normal();
    return owned.back().matrix(rows, cols);
  }
  Weight weight(int rows, int cols) {
    return Weight(Matrix<const float>(random(rows, cols, 1 / std::sqrt(static_cast<float>(cols)))));
  }
};

// The experts are shared by all routers; each has gate tensors and numbers of its own.
struct Bench {
  Numbers numbers;
  int tokens, width, experts, expert_width;
  base::Threads threads;
  std::vector<int32_t> ids;
  Matrix<float> x, y, dy, dx;
  moe::MoeTensors<Weight> weights;
  moe::MoeTensors<Matrix<float>> gradients;
  moe::MoeActivations activations;

  explicit Bench(const Options& o)
      : numbers{{}, base::Rng(std::stoull(o.at("--seed")))},
        tokens(std::stoi(o.at("--tokens"))),
        width(std::stoi(o.at("--width"))),
        experts(std::stoi(o.at("--experts"))),
        expert_width(std::stoi(o.at("--expert-width"))),
        threads(std::stoi(o.at("--threads"))),
        x(numbers.random(tokens, width, 1)),
        y(numbers.random(tokens, width, 1)),
        dy(numbers.random(tokens, width, 1)),
        dx(numbers.random(tokens, width, 1)) {
    for (int t = 0; t < tokens; ++t) ids.push_back(static_cast<int32_t>(numbers.rng.below(32000)));
    for (int e = 0; e < experts; ++e) {
      weights.w1.push_back(numbers.weight(expert_width, width));
      weights.w2.push_back(numbers.weight(width, expert_width));
      weights.w3.push_back(numbers.weight(expert_width, width));
      gradients.w1.push_back(numbers.random(expert_width, width, 0));
      gradients.w2.push_back(numbers.random(width, expert_width, 0));
      gradients.w3.push_back(numbers.random(expert_width, width, 0));
    }
  }
};

struct Row {
  moe::Router router;
  std::vector<Weight> gate{};
  std::vector<Matrix<float>> dgate{};
  std::vector<float> state{};
  std::vector<double> route{}, back{}, layer{}, layer_back{};  // seconds
  double kept = 0;
};

void measure(Bench& b, Row& row) {
  b.weights.gate = row.gate;
  b.weights.state = row.state.empty()
                        ? Weight()
                        : Weight(Matrix<const float>(row.state.data(), 1, static_cast<int>(row.state.size())));
  b.gradients.gate = row.dgate;
  moe::MoeStep step;
  step.tokens.x = b.x;
  step.tokens.id = b.ids;
  step.output = b.y;
  step.balancing = moe::Balancing::kOn;
  step.rule = moe::Rule::kTraining;
  const moe::Context context = moe::context_of(b.weights, step, b.threads);
  const auto timed = [](std::vector<double>& into, const auto& work) {
    const base::Stopwatch watch;
    work();
    into.push_back(watch.seconds());
  };
  timed(row.layer, [&] { moe::moe_forward(row.router, b.weights, step, b.activations, b.threads); });
  moe::Routing& routing = b.activations.routing;
  row.kept = static_cast<double>(routing.plan.edges()) / b.tokens;
  const std::vector<float> dweight(routing.plan.token.size(), 1.0f);
  timed(row.route, [&] { row.router.route(context, moe::Balancing::kOn, routing); });
  timed(row.back, [&] { row.router.backward({dweight, 1, b.dx, b.gradients.gate, {}, {}}, context, routing); });
  tensor::Buffer<float> dhidden;
  const moe::MoeBackward backward{.step = step, .doutput = b.dy, .dx = b.dx, .balance_scale = 1, .dhidden = dhidden};
  timed(row.layer_back,
        [&] { moe::moe_backward(row.router, b.weights, b.activations, backward, b.gradients, b.threads); });
  std::vector<float> sums(static_cast<size_t>(row.router.sums_size(b.experts)));
  row.router.observe(context, routing, sums);
  row.router.update(b.experts, sums, row.state);
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = options_of(argc, argv);
  Bench bench(options);
  std::vector<Row> rows;
  for (const std::string& expression : expressions(options.at("--top-k"))) {
    Row& row = rows.emplace_back(Row{.router = moe::parse_router(expression)});
    for (const moe::GateTensor& t : row.router.tensors(bench.experts, bench.width)) {
      row.gate.push_back(bench.numbers.weight(t.rows, t.cols));
      row.dgate.push_back(bench.numbers.random(t.rows, t.cols, 0));
    }
    row.state.resize(static_cast<size_t>(row.router.state_size(bench.experts)));
    row.router.initial_state(bench.experts, row.state);
  }
  for (Row& row : rows) measure(bench, row);  // warm up
  for (Row& row : rows)
    for (auto* list : {&row.route, &row.back, &row.layer, &row.layer_back}) list->clear();
  for (int i = 0; i < std::stoi(options.at("--repeats")); ++i)
    for (Row& row : rows) measure(bench, row);
  std::printf("router,pairs_per_token,route_us,layer_us,route_share,backward_us,layer_backward_us,backward_share\n");
  for (const Row& row : rows) {
    const double us = 1e6 / bench.tokens;
    std::printf("\"%s\",%.3f,%.3f,%.3f,%.4f,%.3f,%.3f,%.4f\n", row.router.expression().c_str(), row.kept,
                us * median(row.route), us * median(row.layer), median(row.route) / median(row.layer),
                us * median(row.back), us * median(row.layer_back), median(row.back) / median(row.layer_back));
  }
}
