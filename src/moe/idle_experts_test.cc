#include "moe/idle_experts.h"

#include <doctest/doctest.h>

#include "moe/layer.h"
#include "moe/parse.h"
#include "moe/reference/data.h"
#include "moe/reference/layer.h"
#include "tests/gradients/complex_step.h"

namespace choir::moe {
namespace {

constexpr int kTokens = 23, kWidth = 6, kHidden = 5, kBusy = 2, kZero = 1, kCopy = 2, kConstant = 2, kNovice = 1,
              kChoices = 3;
constexpr int kExperts = kBusy + kZero + kCopy + kConstant + kNovice;

// x (N,D), gate (E,D), w1, w2, w3 of each busy expert, then v (D) and W_c (2,D) of each constant one, v (D) of a
// novice.
std::vector<double> variables(double scale, uint64_t seed) {
  const size_t size = (kTokens + kExperts + kBusy * 3 * kHidden + kConstant * 3 + kNovice) * kWidth;
  std::vector<double> all = reference::random(size, 0.7, seed);
  for (size_t i = 0; i < kTokens * kWidth; ++i) all[i] = static_cast<double>(static_cast<float>(all[i] * scale));
  return all;
}

template <class S>
struct Split {
  std::vector<S> x, gate;
  std::vector<reference::Expert<S>> busy;
  std::vector<std::vector<S>> v, mix;
  std::vector<S> novice;

  explicit Split(const std::vector<S>& all) {
    auto next = all.begin();
    const auto take = [&](int rows) {
      next += rows * kWidth;
      return std::vector<S>(next - rows * kWidth, next);
    };
    x = take(kTokens);
    gate = take(kExperts);
    for (int e = 0; e < kBusy; ++e) {
      reference::Expert<S> expert;
      for (auto* part : {&expert.w1, &expert.w2, &expert.w3}) *part = take(kHidden);
      busy.push_back(expert);
    }
    for (int j = 0; j < kConstant; ++j) {
      v.push_back(take(1));
      mix.push_back(take(2));
    }
    novice = take(kNovice);
  }
};

template <class S>
std::vector<S> output_of(const Split<S>& layer, int e, const std::vector<S>& x) {
  if (e < kBusy) return reference::expert_output(layer.busy[static_cast<size_t>(e)], x);
  if (e < kBusy + kZero) return std::vector<S>(kWidth, S(0));
  if (e < kBusy + kZero + kCopy) return x;
  const auto j = static_cast<size_t>(e - kBusy - kZero - kCopy);
  if (j == kConstant) return layer.novice;
  const std::vector<S> a = reference::softmax(reference::linear(x, layer.mix[j], kWidth));
  std::vector<S> y;
  for (size_t d = 0; d < kWidth; ++d) y.push_back(a[0] * x[d] + a[1] * layer.v[j][d]);
  return y;
}

struct Lists {
  std::vector<int32_t> proposed, chosen;
};

// As the published code of MoE++ does: the softmax over all experts, 0 for the zero expert, over its sum over the
// token's proposals.
template <class S>
std::vector<S> released_weights(const std::vector<S>& z, const Lists& lists) {
  std::vector<S> g(lists.chosen.size(), S(0));
  for (size_t t = 0; t < kTokens; ++t) {
    std::vector<S> p = reference::softmax(reference::row_of(z, t, kExperts));
    p[kBusy] = 0;
    S sum = 0;
    for (const int32_t e : reference::row_of(lists.proposed, t, kChoices)) sum += p[static_cast<size_t>(e)];
    for (size_t i = t * kChoices; i < (t + 1) * kChoices; ++i)
      if (lists.chosen[i] >= 0) g[i] = p[static_cast<size_t>(lists.chosen[i])] / sum;
  }
  return g;
}

template <class S>
std::vector<S> forward(const std::vector<S>& all, const Lists& lists, bool release = false) {
  Split<S> layer(all);
  const std::vector<int32_t>& chosen = lists.chosen;
  const std::vector<S> z = reference::linear(layer.x, layer.gate, kWidth);
  const std::vector<S> g =
      release ? released_weights(z, lists) : reference::chosen_weights(z, chosen, kExperts, kChoices);
  for (S& v : layer.x) v *= release ? kChoices : 1;
  std::vector<S> y(layer.x.size(), S(0));
  for (size_t i = 0; i < chosen.size(); ++i) {
    if (chosen[i] < 0) continue;
    const auto out = output_of(layer, chosen[i], reference::row_of(layer.x, i / kChoices, kWidth));
    for (size_t d = 0; d < kWidth; ++d) y[i / kChoices * kWidth + d] += g[i] * out[d];
  }
  return y;
}

template <class T>
MoeTensors<T> tensors_over(std::vector<float>& all) {
  MoeTensors<T> tensors;
  float* next = all.data() + kTokens * kWidth;
  const auto take = [&](int rows, int cols) {
    const Matrix<float> m(next, rows, cols);
    next += rows * cols;
    if constexpr (std::is_same_v<T, Weight>)
      return T(Matrix<const float>(m));
    else
      return m;
  };
  tensors.gate.push_back(take(kExperts, kWidth));
  for (int e = 0; e < kBusy; ++e) {
    tensors.w1.push_back(take(kHidden, kWidth));
    tensors.w2.push_back(take(kWidth, kHidden));
    tensors.w3.push_back(take(kHidden, kWidth));
  }
  tensors.idle.zero = kZero;
  tensors.idle.copy = kCopy;
  for (int j = 0; j < kConstant; ++j) {
    tensors.idle.v.push_back(take(1, kWidth));
    tensors.idle.mix.push_back(take(2, kWidth));
  }
  tensors.idle.novice.push_back(take(1, kWidth));
  return tensors;
}

struct Result {
  std::vector<float> y, gradient;
  Lists lists;
};

Result run(const std::string& expression, const std::vector<double>& all, const std::vector<double>& dy, int threads) {
  std::vector<float> numbers = reference::narrow(all);
  Result r{std::vector<float>(kTokens * kWidth), std::vector<float>(all.size()), {}};
  base::Threads pool(threads);
  const Router router = parse_router(expression);
  const auto weights = tensors_over<Weight>(numbers);
  MoeStep step;
  step.tokens.x = {numbers.data(), kTokens, kWidth};
  step.output = reference::matrix(r.y, kWidth);
  step.rule = Rule::kTraining;
  MoeActivations activations;
  moe_forward(router, weights, step, activations, pool);
  r.lists = {activations.routing.proposed, activations.routing.chosen};
  const std::vector<float> dyf = reference::narrow(dy);
  Buffer<float> dhidden;
  moe_backward(router, weights, activations,
               {.step = step,
                .doutput = reference::matrix(dyf, kWidth),
                .dx = {r.gradient.data(), kTokens, kWidth},
                .balance_scale = 0,
                .dhidden = dhidden},
               tensors_over<Matrix<float>>(r.gradient), pool);
  return r;
}

void check_layer(const std::string& router, double scale, bool release) {
  CAPTURE(router);
  CAPTURE(scale);
  const auto all = variables(scale, 5);
  const auto dy = reference::random(kTokens * kWidth, 1, 6);
  const Result r = run(router, all, dy, 2);
  CHECK(reference::error(forward(all, r.lists, release), r.y) < 1e-5);
  const auto want = complex_step(all, [&](const std::vector<std::complex<double>>& v) {
    const auto y = forward(v, r.lists, release);
    std::complex<double> sum = 0;
    for (size_t i = 0; i < y.size(); ++i) sum += dy[i] * y[i];
    return sum;
  });
  CHECK(reference::error(want, r.gradient) < 2e-5);
  for (int e = 0; e < kExperts; ++e) CHECK(std::ranges::count(r.lists.chosen, e) > 0);
}

TEST_CASE("idle experts: layer and gradient agree with the reference and the complex step") {
  for (const double scale : {1e-2, 0.3, 1.0, 4.0})
    for (const std::string admit : {"all", "fifo(factor(0.6,eta=0.5))"})
      check_layer("linear > top_k(3) > " + admit + " > chosen", scale, false);
}

TEST_CASE("idle experts: the release rule takes the zero expert out and multiplies the inputs by K") {
  for (const double scale : {1e-2, 0.3, 1.0, 4.0})
    for (const std::string admit : {"all", "fifo(factor(0.6,eta=0.5))"})
      check_layer("linear > top_k(3) > " + admit + " > softmax(renorm, release)", scale, true);
}

TEST_CASE("idle experts: the same bits for any number of threads, and finite at extremes") {
  const auto dy = reference::random(kTokens * kWidth, 1, 6);
  const auto all = variables(1, 7);
  const Result one = run("linear > top_k(3) > all > chosen", all, dy, 1);
  const Result three = run("linear > top_k(3) > all > chosen", all, dy, 3);
  CHECK(one.y == three.y);
  CHECK(one.gradient == three.gradient);
  const Result extreme = run("linear > top_k(3) > all > chosen", variables(1e4, 7), dy, 2);
  for (const float v : extreme.gradient) CHECK(std::isfinite(v));
}

TEST_CASE("idle experts: the load loss weighs them by eta") {
  std::vector<float> numbers = reference::narrow(variables(1, 9));
  base::Threads pool(2);
  const auto weights = tensors_over<Weight>(numbers);
  std::vector<float> y(kTokens * kWidth);
  double loss[2];
  MoeActivations a;
  for (const int i : {0, 1}) {
    MoeStep step;
    step.tokens.x = {numbers.data(), kTokens, kWidth};
    step.output = reference::matrix(y, kWidth);
    step.balancing = Balancing::kOn;
    moe_forward(parse_router(i ? "linear > top_k(3) > all > chosen + load(1, eta=0.5)"
                               : "linear > top_k(3) > all > chosen + load(1)"),
                weights, step, a, pool);
    loss[i] = a.routing.balance_loss;
  }
  const auto f = reference::shares(a.routing.proposed, kExperts);
  double busy = 0, idle = 0;
  for (int t = 0; t < kTokens; ++t)
    for (int e = 0; e < kExperts; ++e) {
      const double p = static_cast<double>(a.routing.probability[static_cast<size_t>(t * kExperts + e)]);
      (e < kBusy ? busy : idle) += kExperts * f[static_cast<size_t>(e)] * p / kTokens;
    }
  CHECK(loss[0] == doctest::Approx(busy + idle).epsilon(1e-5));
  CHECK(loss[1] == doctest::Approx(busy + 0.5 * idle).epsilon(1e-5));
}

}  // namespace
}  // namespace choir::moe
