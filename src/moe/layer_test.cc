#include "moe/layer.h"

#include <doctest/doctest.h>

#include <array>

#include "moe/reference/data.h"
#include "moe/reference/layer.h"
#include "tests/gradients/complex_step.h"

namespace choir::moe {
namespace {

constexpr int kWidth = 6;
const std::vector<size_t> kExpertWidths{5, 3, 8, 1};
constexpr double kScale = 0.5, kAlpha = 0.25;

// x, the router and the experts as one list, in the order that layer_of reads.
std::vector<double> variables_of(int tokens, uint64_t seed, bool last_expert_loses) {
  std::vector<double> all = reference::random(static_cast<size_t>(tokens * kWidth), 1, seed);
  auto gate = reference::random(kExpertWidths.size() * kWidth, 1, seed + 1);
  if (last_expert_loses) {  // no token is good enough for it: x_0 > 0 and its logit is -30 x_0
    for (int t = 0; t < tokens; ++t) all[static_cast<size_t>(t * kWidth)] = 2;
    std::fill(gate.end() - kWidth, gate.end(), 0);
    *(gate.end() - kWidth) = -30;
  }
  all.insert(all.end(), gate.begin(), gate.end());
  for (const size_t f : kExpertWidths) {
    const auto expert = reference::random(3 * f * kWidth, 0.7, ++seed + 10);
    all.insert(all.end(), expert.begin(), expert.end());
  }
  return all;
}

template <class S>
struct Split {
  std::vector<S> x;
  reference::Layer<S> layer;
};

template <class S>
Split<S> split(const std::vector<S>& all, int tokens) {
  auto next = all.begin();
  const auto take = [&](size_t size) {
    next += static_cast<std::ptrdiff_t>(size);
    return std::vector<S>(next - static_cast<std::ptrdiff_t>(size), next);
  };
  Split<S> result{take(static_cast<size_t>(tokens * kWidth)), {kWidth, take(kExpertWidths.size() * kWidth), {}}};
  for (const size_t f : kExpertWidths) {
    reference::Expert<S> expert;
    for (auto* part : {&expert.w1, &expert.w2, &expert.w3}) *part = take(f * kWidth);
    result.layer.experts.push_back(expert);
  }
  return result;
}

// The tensors of a layer over a flat list of the same order.
template <class T>
MoeTensors<T> tensors_over(std::vector<float>& all, int tokens) {
  MoeTensors<T> tensors;
  float* next = all.data() + tokens * kWidth;
  const auto take = [&](int rows, int cols) {
    const tensor::Matrix<float> m(next, rows, cols);
    next += rows * cols;
    if constexpr (std::is_same_v<T, Weight>)
      return T(tensor::Matrix<const float>(m));
    else
      return m;
  };
  tensors.gate.push_back(take(static_cast<int>(kExpertWidths.size()), kWidth));
  for (const size_t width : kExpertWidths) {
    const int f = static_cast<int>(width);
    tensors.w1.push_back(take(f, kWidth));
    tensors.w2.push_back(take(kWidth, f));
    tensors.w3.push_back(take(f, kWidth));
  }
  return tensors;
}

MoeStep step_of(Matrix<const float> x, Matrix<float> output) {
  MoeStep step;
  step.tokens.x = x;
  step.output = output;
  return step;
}

struct Result {
  std::vector<float> y, gradient;
  Routing routing;
};

Result run(const Router& router, const std::vector<double>& variables, const std::vector<double>& dy, int threads) {
  Threads pool(threads);
  const int tokens = static_cast<int>(dy.size()) / kWidth;
  auto all = reference::narrow(variables);
  const auto dyf = reference::narrow(dy);
  const Matrix<const float> x(all.data(), tokens, kWidth);
  Result r{std::vector<float>(dy.size()), std::vector<float>(all.size(), 1.0f), {}};
  MoeActivations activations;
  const auto weights = tensors_over<Weight>(all, tokens);
  MoeStep step = step_of(x, reference::matrix(r.y, kWidth));
  step.balancing = Balancing::kOn;
  moe_forward(router, weights, step, activations, pool);
  Buffer<float> dhidden(1 << 12);
  std::ranges::fill(dhidden.span(), NAN);  // what another layer left there
  moe_backward(
      router, weights, activations,
      {step, reference::matrix(dyf, kWidth), {r.gradient.data(), tokens, kWidth}, static_cast<float>(kScale), dhidden},
      tensors_over<Matrix<float>>(r.gradient, tokens), pool);
  for (float& g : r.gradient) g -= 1;  // the backward adds to what is there
  r.routing = std::move(activations.routing);
  return r;
}

// Forward and every gradient against the reference, for the choices that the router made.
Result check_layer(const std::string& expression, bool last_expert_loses) {
  CAPTURE(expression);
  constexpr int tokens = 13;
  const Router router = parse_router(expression);
  const size_t k = static_cast<size_t>(router.choices(static_cast<int>(kExpertWidths.size())));
  const auto variables = variables_of(tokens, 7, last_expert_loses), dy = reference::random(tokens * kWidth, 1, 99);
  Result r = run(router, variables, dy, 2);
  const Split<double> real = split(variables, tokens);
  CHECK(reference::error(reference::forward(real.layer, real.x, r.routing.chosen, k), r.y) < 1e-5);
  const auto balance = [&](const auto& s) {
    return reference::load_loss(reference::linear(s.x, s.layer.gate, kWidth), r.routing.proposed, kExpertWidths.size(),
                                kAlpha);
  };
  CHECK(r.routing.balance_loss == doctest::Approx(balance(real)).epsilon(1e-5));
  const auto derivative = complex_step(variables, [&](const std::vector<std::complex<double>>& z) {
    const auto s = split(z, tokens);
    const auto y = reference::forward(s.layer, s.x, r.routing.chosen, k);
    std::complex<double> loss = kScale * balance(s);
    for (size_t i = 0; i < y.size(); ++i) loss += dy[i] * y[i];
    return loss;
  });
  // One block at a time, so that a small gradient cannot hide behind a large one.
  auto from = derivative.begin();
  auto got = r.gradient.begin();
  std::vector<std::ptrdiff_t> blocks{tokens * kWidth, static_cast<std::ptrdiff_t>(kExpertWidths.size()) * kWidth};
  for (const size_t f : kExpertWidths) blocks.insert(blocks.end(), 3, static_cast<std::ptrdiff_t>(f) * kWidth);
  for (size_t b = 0; b < blocks.size(); from += blocks[b], got += blocks[b], ++b) {
    CAPTURE(b);
    CHECK(reference::error({from, from + blocks[b]}, std::vector<float>(got, got + blocks[b])) < 1e-5);
  }
  CHECK(from == derivative.end());
  return r;
}

TEST_CASE("moe layer: output and every gradient agree with the reference, with experts of uneven widths") {
  check_layer("linear > top_k(2) > all > chosen + load(0.25)", false);
  check_layer("linear > top_k(1) > all > chosen + load(0.25)", false);
  check_layer("linear > top_k(4) > all > chosen + load(0.25)", false);
}

TEST_CASE("moe layer: the same when some tokens skip their second expert") {
  const Result r = check_layer("linear > top_k(2) > skip(0.4) > chosen + load(0.25)", false);
  CHECK(r.routing.plan.edges() < 2 * 13);
  CHECK(r.routing.plan.edges() > 13);
}

TEST_CASE("moe layer: the same when an expert gets no token, and its gradients are zero") {
  const Result r = check_layer("linear > top_k(2) > all > chosen + load(0.25)", true);
  CHECK(r.routing.plan.offset[3] == r.routing.plan.offset[4]);
  const auto last = r.gradient.end() - 3 * static_cast<std::ptrdiff_t>(kExpertWidths.back()) * kWidth;
  CHECK(std::all_of(last, r.gradient.end(), [](float g) { return g == 0; }));
}

TEST_CASE("moe layer: the same bits for any number of threads") {
  const Router router = parse_router("linear > top_k(2) > skip(0.4) > chosen + load(0.25)");
  const auto variables = variables_of(40, 3, false), dy = reference::random(40 * kWidth, 1, 5);
  const Result one = run(router, variables, dy, 1), three = run(router, variables, dy, 3);
  CHECK(one.y == three.y);
  CHECK(one.gradient == three.gradient);
}

TEST_CASE("moe layer: a token alone gives the bits it gives in a batch") {
  Threads threads(2);
  constexpr int tokens = 40;
  const Router router = parse_router("linear > top_k(2) > skip(0.4) > chosen");
  auto all = reference::narrow(variables_of(tokens, 3, false));
  const auto weights = tensors_over<Weight>(all, tokens);
  std::vector<float> together(tokens * kWidth), alone(kWidth);
  MoeActivations activations;
  const Matrix<const float> x(all.data(), tokens, kWidth);
  moe_forward(router, weights, step_of(x, reference::matrix(together, kWidth)), activations, threads);
  for (int t = 0; t < tokens; ++t) {
    moe_forward(router, weights, step_of(x.slice_rows(t, 1), reference::matrix(alone, kWidth)), activations, threads);
    CHECK(std::equal(alone.begin(), alone.end(), together.begin() + t * kWidth));
  }
}

// Every proposal is below the floor: cosines of random tokens do not reach 1.
TEST_CASE("moe layer: a plan without edges gives zeros, and a gradient from the balance loss alone") {
  const Router router = parse_router("linear > top_k(2) > top_capacity(factor(2), floor=1) > softmax + load(0.25)");
  const auto variables = variables_of(13, 7, false), dy = reference::random(13 * kWidth, 1, 99);
  const Result r = run(router, variables, dy, 2);
  CHECK(r.routing.plan.edges() == 0);
  CHECK(r.y == std::vector<float>(13 * kWidth));
  const auto experts = r.gradient.begin() + (13 + static_cast<ptrdiff_t>(kExpertWidths.size())) * kWidth;
  CHECK(std::any_of(r.gradient.begin(), experts, [](float g) { return g != 0; }));
  CHECK(std::all_of(experts, r.gradient.end(), [](float g) { return g == 0; }));
}

TEST_CASE("moe layer: no tokens, no output, no gradient") {
  const Result r = run(parse_router("linear > top_k(2) > all > chosen + load(0.25)"), variables_of(0, 7, false), {}, 2);
  CHECK(r.routing.balance_loss == 0);
  CHECK(std::all_of(r.gradient.begin(), r.gradient.end(), [](float g) { return g == 0; }));
}

// Logits 3, 1.5, -6 and -8 for every token: all but the first expert are skipped, and hold NaN.
TEST_CASE("moe layer: an expert that every token skips is neither read nor computed") {
  constexpr int tokens = 9;
  auto all = reference::narrow(variables_of(tokens, 3, false));
  const auto weights = tensors_over<Weight>(all, tokens);
  float* gate = all.data() + tokens * kWidth;
  std::fill_n(gate, kExpertWidths.size() * kWidth, 0.0f);
  for (int t = 0; t < tokens; ++t) all[static_cast<size_t>(t * kWidth)] = 2;
  for (size_t e = 0; e < 4; ++e) gate[e * kWidth] = std::array{1.5f, 0.75f, -3.0f, -4.0f}[e];
  const Matrix<const float> x(all.data(), tokens, kWidth);
  const auto output = [&](const std::string& expression, Balancing balancing) {
    Threads threads(2);
    std::vector<float> y(tokens * kWidth);
    MoeActivations activations;
    MoeStep step = step_of(x, reference::matrix(y, kWidth));
    step.balancing = balancing;
    moe_forward(parse_router(expression), weights, step, activations, threads);
    return y;
  };
  const std::string expressions[] = {
      "linear > top_k(2) > skip(0.3) > chosen", "linear > top_k(3) > skip(tail=0.2) > softmax(renorm)",
      "linear > top_k(4) > skip(ser=0.9) > sigmoid_norm", "linear > top_k(3) > skip(count=1) > chosen(over=4)",
      "linear > groups(2, 1, 2) > skip(count=1) > softmax"};
  std::vector<std::vector<float>> sound;
  for (const std::string& expression : expressions) sound.push_back(output(expression, Balancing::kOff));
  std::fill(gate + 4 * kWidth + 3 * kExpertWidths[0] * kWidth, all.data() + all.size(), NAN);
  for (size_t i = 0; i < std::size(expressions); ++i) {
    CAPTURE(expressions[i]);
    CHECK(output(expressions[i], Balancing::kOff) == sound[i]);
    for (const float v : output(expressions[i], Balancing::kOn)) CHECK(std::isfinite(v));
  }
  CHECK(std::isnan(output("linear > top_k(2) > skip(0.2) > chosen", Balancing::kOff)[0]));
}

}  // namespace
}  // namespace choir::moe
