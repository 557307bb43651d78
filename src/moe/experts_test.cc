#include "moe/experts.h"

#include <doctest/doctest.h>

#include <map>

#include "moe/dispatch.h"
#include "moe/layer.h"
#include "moe/reference/data.h"
#include "moe/reference/layer.h"
#include "moe/stats.h"
#include "tests/gradients/complex_step.h"

namespace choir::moe {
namespace {

constexpr int kWidth = 6, kTokens = 13, kSharedWidth = 7;
constexpr int kWidths[] = {5, 3, 8, 1};  // of the routed experts
constexpr int kWithoutBias = 2;          // this one has none in the lists
constexpr double kScale = 0.5;
const double kAlpha = double(1.702f);

// What a layer has.
struct Kind {
  bool routed = true, biases = false, clamped = false, gate_bias = false, shared = false, shared_gate = false;

  double limit() const { return clamped ? 1.25 : 0; }
  Router router() const {
    if (!routed) return Router();
    return parse_router(std::string(gate_bias ? "linear(bias)" : "linear") + " > top_k(2) > all > chosen + load(0.25)");
  }
};

struct Part {
  int rows, cols;
  size_t at;
};

// The numbers of a layer in one list, each block under its name.
struct Numbers {
  std::map<std::string, Part> parts;
  std::vector<double> values;

  explicit Numbers(const Kind& kind, int tokens = kTokens) {
    add("x", tokens, kWidth);
    const int experts = kind.routed ? static_cast<int>(std::size(kWidths)) : 0;
    if (kind.routed) add("gate", experts, kWidth);
    if (kind.gate_bias) add("gate_bias", 1, experts);
    for (int e = 0; e < experts; ++e) add_expert(std::to_string(e), kWidths[e], kind.biases && e != kWithoutBias);
    if (kind.shared) add_expert("shared", kSharedWidth, kind.biases);
    if (kind.shared_gate) add("shared.gate", 1, kWidth);
  }

  template <class S>
  std::vector<S> take(const std::vector<S>& all, const std::string& name) const {
    const auto found = parts.find(name);
    if (found == parts.end()) return {};
    const auto [rows, cols, at] = found->second;
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(at);
    return {begin, begin + rows * cols};
  }
  // Without data where there is no such block.
  template <class T>
  T view(std::vector<float>& all, const std::string& name) const {
    const auto found = parts.find(name);
    if (found == parts.end()) return {};
    const Matrix<float> m(all.data() + found->second.at, found->second.rows, found->second.cols);
    if constexpr (std::is_same_v<T, Weight>)
      return T(Matrix<const float>(m));
    else
      return m;
  }

 private:
  void add(const std::string& name, int rows, int cols) {
    parts[name] = {rows, cols, values.size()};
    const auto more = reference::random(size_t(rows * cols), name == "x" ? 1 : 0.7, values.size() + 1);
    values.insert(values.end(), more.begin(), more.end());
  }
  void add_expert(const std::string& name, int f, bool biases) {
    add(name + ".w1", f, kWidth);
    add(name + ".w2", kWidth, f);
    add(name + ".w3", f, kWidth);
    if (!biases) return;
    add(name + ".b1", 1, f);
    add(name + ".b2", 1, kWidth);
    add(name + ".b3", 1, f);
  }
};

template <class S>
reference::Layer<S> layer_of(const Kind& kind, const Numbers& n, const std::vector<S>& all) {
  const auto expert = [&](const std::string& name) {
    const auto part = [&](const char* which) { return n.take(all, name + which); };
    return reference::Expert<S>{part(".w1"), part(".w2"), part(".w3"), part(".b1"), part(".b2"), part(".b3")};
  };
  reference::Layer<S> layer;
  layer.width = kWidth;
  layer.gate = n.take(all, "gate");
  layer.gate_bias = n.take(all, "gate_bias");
  for (size_t e = 0; kind.routed && e < std::size(kWidths); ++e) layer.experts.push_back(expert(std::to_string(e)));
  layer.shared = expert("shared");
  layer.shared_gate = n.take(all, "shared.gate");
  layer.limit = kind.limit();
  layer.alpha = kAlpha;
  return layer;
}

template <class T>
MoeTensors<T> tensors_over(const Kind& kind, const Numbers& n, std::vector<float>& all) {
  const auto view = [&](const std::string& name) { return n.view<T>(all, name); };
  MoeTensors<T> tensors;
  if (kind.routed) tensors.gate.push_back(view("gate"));
  if (kind.gate_bias) tensors.gate.push_back(view("gate_bias"));
  for (size_t e = 0; kind.routed && e < std::size(kWidths); ++e) {
    const std::string name = std::to_string(e);
    tensors.w1.push_back(view(name + ".w1"));
    tensors.w2.push_back(view(name + ".w2"));
    tensors.w3.push_back(view(name + ".w3"));
    if (!kind.biases) continue;
    tensors.b1.push_back(view(name + ".b1"));
    tensors.b2.push_back(view(name + ".b2"));
    tensors.b3.push_back(view(name + ".b3"));
  }
  tensors.shared = {view("shared.w1"), view("shared.w2"), view("shared.w3"),  view("shared.b1"),
                    view("shared.b2"), view("shared.b3"), view("shared.gate")};
  tensors.activation = {static_cast<float>(kind.limit()), 1.702f};
  return tensors;
}

MoeStep step_of(Matrix<const float> x, Matrix<float> output, Balancing balancing) {
  MoeStep step;
  step.tokens.x = x;
  step.output = output;
  step.balancing = balancing;
  return step;
}

struct Result {
  std::vector<float> y, inference, gradient;
  Routing routing;
};

Result run(const Kind& kind, const Numbers& n, const std::vector<double>& dy, int threads) {
  Threads pool(threads);
  auto all = reference::narrow(n.values);
  const auto dyf = reference::narrow(dy);
  const auto x = n.view<Matrix<float>>(all, "x");
  Result r{std::vector<float>(dy.size()), std::vector<float>(dy.size()), std::vector<float>(all.size(), 1.0f), {}};
  MoeActivations activations;
  const auto weights = tensors_over<Weight>(kind, n, all);
  const Router router = kind.router();
  moe_forward(router, weights, step_of(x, reference::matrix(r.inference, kWidth), Balancing::kOff), activations, pool);
  const MoeStep step = step_of(x, reference::matrix(r.y, kWidth), Balancing::kOn);
  moe_forward(router, weights, step, activations, pool);
  Buffer<float> dhidden(1 << 12);
  std::ranges::fill(dhidden.span(), NAN);  // what another layer left there
  moe_backward(router, weights, activations,
               {step, reference::matrix(dyf, kWidth), n.view<Matrix<float>>(r.gradient, "x"),
                static_cast<float>(kScale), dhidden},
               tensors_over<Matrix<float>>(kind, n, r.gradient), pool);
  for (float& g : r.gradient) g -= 1;  // the backward adds to what is there
  r.routing = std::move(activations.routing);
  return r;
}

// Both forwards and every gradient against the reference, for the choices that the router made.
Result check_layer(const Kind& kind) {
  const Numbers n(kind);
  const auto dy = reference::random(kTokens * kWidth, 1, 99);
  Result r = run(kind, n, dy, 2);
  const size_t k = kind.routed ? 2 : 1, experts = std::size(kWidths);
  const auto x = n.take(n.values, "x");
  const auto expected = reference::forward(layer_of(kind, n, n.values), x, r.routing.chosen, k);
  CHECK(reference::error(expected, r.y) < 1e-5);
  CHECK(reference::error(expected, r.inference) < 1e-5);
  const auto derivative = complex_step(n.values, [&](const std::vector<std::complex<double>>& z) {
    const auto layer = layer_of(kind, n, z);
    const auto at = n.take(z, "x");
    const auto y = reference::forward(layer, at, r.routing.chosen, k);
    std::complex<double> loss = 0;
    if (kind.routed)
      loss = kScale * reference::load_loss(reference::logits(layer, at), r.routing.proposed, experts, 0.25);
    for (size_t i = 0; i < y.size(); ++i) loss += dy[i] * y[i];
    return loss;
  });
  for (const auto& [name, part] : n.parts) {  // one at a time: a small gradient cannot hide behind a large one
    CAPTURE(name);
    const auto begin = static_cast<std::ptrdiff_t>(part.at), end = begin + part.rows * part.cols;
    const std::vector<double> want(derivative.begin() + begin, derivative.begin() + end);
    CHECK(reference::error(want, std::vector<float>(r.gradient.begin() + begin, r.gradient.begin() + end)) < 1e-5);
    if (name[0] != '3')  // of one neuron, which may lie beyond a limit for every token
      CHECK(std::ranges::any_of(want, [](double d) { return d != 0; }));
  }
  return r;
}

const Kind kKinds[] = {
    {.biases = true},
    {.clamped = true},
    {.biases = true, .clamped = true, .gate_bias = true},  // gpt-oss
    {.shared = true},                                      // DeepSeek
    {.shared = true, .shared_gate = true},                 // Qwen2-MoE
    {.biases = true, .shared = true, .shared_gate = true},
    {.routed = false, .shared = true},  // dense
    {.routed = false, .biases = true, .clamped = true, .shared = true, .shared_gate = true},
};

TEST_CASE("experts: output and every gradient agree with the reference, for every kind of layer") {
  for (const Kind& kind : kKinds) {
    CAPTURE(&kind - kKinds);
    check_layer(kind);
  }
}

TEST_CASE("experts: the limits of the clamped activation are passed, and what is clamped tells") {
  const Kind clamped{.clamped = true};
  Kind plain;
  const Numbers n(clamped);
  const auto dy = reference::random(kTokens * kWidth, 1, 99);
  CHECK(run(clamped, n, dy, 1).y != run(plain, n, dy, 1).y);
  int beyond = 0, within = 0;
  for (const double v : reference::linear(n.take(n.values, "x"), n.take(n.values, "2.w3"), kWidth))
    ++(std::abs(v) > clamped.limit() ? beyond : within);
  CHECK((beyond > 10 && within > 10));
}

TEST_CASE("experts: the same bits for any number of threads, and for a token alone") {
  for (const Kind& kind : kKinds) {
    CAPTURE(&kind - kKinds);
    const Numbers n(kind, 70);
    const auto dy = reference::random(70 * kWidth, 1, 5);
    const Result one = run(kind, n, dy, 1), three = run(kind, n, dy, 3);
    CHECK(one.y == three.y);
    CHECK(one.inference == three.inference);
    CHECK(one.gradient == three.gradient);
    Threads threads(2);
    auto all = reference::narrow(n.values);
    const auto weights = tensors_over<Weight>(kind, n, all);
    const auto x = n.view<Matrix<float>>(all, "x");
    MoeActivations activations;
    std::vector<float> alone(kWidth);
    for (int t = 0; t < 70; ++t) {
      const MoeStep step = step_of(x.slice_rows(t, 1), reference::matrix(alone, kWidth), Balancing::kOff);
      moe_forward(kind.router(), weights, step, activations, threads);
      CHECK(std::equal(alone.begin(), alone.end(), one.inference.begin() + t * kWidth));
    }
  }
}

TEST_CASE("experts: no tokens, no output, no gradient") {
  for (const Kind& kind : kKinds) {
    const Result r = run(kind, Numbers(kind, 0), {}, 2);
    CHECK(std::ranges::all_of(r.gradient, [](float g) { return g == 0; }));
  }
}

TEST_CASE("experts: a layer is its routed answers and the shared expert, as others may add them up") {
  for (const Kind& kind : kKinds) {
    const Numbers n(kind);
    const Result r = run(kind, n, std::vector<double>(kTokens * kWidth), 2);
    auto all = reference::narrow(n.values);
    const auto weights = tensors_over<Weight>(kind, n, all);
    const auto x = n.view<Matrix<float>>(all, "x");
    Threads threads(2);
    MoeActivations activations;
    std::vector<float> y(kTokens * kWidth);
    run_experts(r.routing.plan, weights, x, activations, threads);
    combine(r.routing.plan, activations.out.matrix(r.routing.plan.edges(), kWidth), Weighting::kByPlan, Into::kSet,
            reference::matrix(y, kWidth), threads);
    add_shared_expert(weights, x, reference::matrix(y, kWidth), activations, threads);
    CHECK(y == r.inference);
  }
}

TEST_CASE("experts: an answer includes the expert's second bias, not the shared expert") {
  const Kind kind{.biases = true, .shared = true};
  const Numbers n(kind);
  auto all = reference::narrow(n.values);
  auto weights = tensors_over<Weight>(kind, n, all);
  Threads threads(2);
  Plan plan;
  build_plan({0, 3, 2, 1}, 2, 2, 4, plan);
  const auto x = n.view<Matrix<float>>(all, "x").slice_rows(0, 2);
  MoeActivations activations;
  run_experts(plan, weights, x, activations, threads);
  const auto layer = layer_of(kind, n, n.values);
  for (int e = 0; e < 4; ++e) {
    const auto token = static_cast<size_t>(plan.token[static_cast<size_t>(e)]);
    const auto row = reference::row_of(n.take(n.values, "x"), token, kWidth);
    const auto want = reference::expert_output(layer.experts[static_cast<size_t>(e)], row);
    CHECK(reference::error(want, activations.out.matrix(4, kWidth).row(e)) < 1e-5);
  }
}

TEST_CASE("experts: biases in the format of their file") {
  const Kind kind{.biases = true, .shared = true};
  Numbers n(kind);
  std::vector<tensor::BF16> narrow(kWidth);
  const Part& part = n.parts.at("0.b2");
  for (size_t i = 0; i < kWidth; ++i) {
    narrow[i] = tensor::BF16::from(static_cast<float>(n.values[part.at + i]));
    n.values[part.at + i] = static_cast<double>(static_cast<float>(narrow[i]));
  }
  auto all = reference::narrow(n.values);
  const auto x = n.view<Matrix<float>>(all, "x");
  const auto output = [&](const MoeTensors<Weight>& weights) {
    Threads threads(2);
    std::vector<float> y(kTokens * kWidth);
    MoeActivations activations;
    moe_forward(kind.router(), weights, step_of(x, reference::matrix(y, kWidth), Balancing::kOff), activations,
                threads);
    return y;
  };
  auto weights = tensors_over<Weight>(kind, n, all);
  const auto wide = output(weights);
  weights.b2[0] = Weight(narrow.data(), tensor::DType::kBF16, 1, kWidth);
  CHECK(output(weights) == wide);
}

TEST_CASE("experts: one is taken over with its biases") {
  const Kind kind{.biases = true};
  const Numbers n(kind);
  auto all = reference::narrow(n.values);
  const auto weights = tensors_over<Weight>(kind, n, all);
  ExpertTensors<Weight> some;
  for (const size_t e : {3, 2}) some.add(weights, e);
  CHECK((some.w1.size() == 2 && some.b3.size() == 2));
  CHECK((some.w2[0].data == weights.w2[3].data && some.b2[0].data == weights.b2[3].data));
  CHECK((some.w3[1].data == weights.w3[2].data && some.b1[1].data == nullptr));
}

TEST_CASE("dense layer: its router has no words for anything, and nothing is counted") {
  const Router none;
  CHECK(none.expression() == "none > all > all > identity");
  CHECK(parse_router(none.expression()).expression() == none.expression());
  CHECK((none.choices(0) == 0 && none.state_size(0) == 0 && none.sums_size(0) == 0));
  CHECK((none.causal() && !none.residual() && !none.masks() && !none.shares_matter() && !none.skippable()));
  CHECK((!none.subset_rule() && none.tensors(0, 64).empty() && none.misfit(0, 64).empty()));
  CHECK(!none.misfit(4, 64).empty());
  const Result r = check_layer({.routed = false, .shared = true});
  CHECK((r.routing.plan.tokens == kTokens && r.routing.plan.edges() == 0 && r.routing.plan.experts() == 0));
  CHECK((r.routing.plan.choices == 0 && r.routing.balance_loss == 0));
  RoutingStats stats;
  stats.add(r.routing);
  CHECK((stats.tokens == 0 && stats.kept() == 0 && stats.dead_experts() == 0 && stats.max_over_mean_load() == 0));
}

}  // namespace
}  // namespace choir::moe
