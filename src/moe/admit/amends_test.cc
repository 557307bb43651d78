#include "moe/admit/amends.h"

#include <doctest/doctest.h>

#include "moe/admit/skip.h"
#include "moe/layer.h"
#include "moe/parse.h"
#include "moe/reference/data.h"
#include "moe/reference/words.h"

namespace choir::moe {
namespace {

constexpr int kTokens = 50, kWidth = 6, kExperts = 5, kHidden = 4;

// A layer of random experts with a router of its own numbers.
struct Amended {
  std::vector<float> x, gate, experts, state, y;
  Router router;
  MoeTensors<Weight> tensors;
  MoeActivations activations;
  Threads threads{2};

  explicit Amended(const std::string& expression)
      : x(reference::narrow(reference::random(kTokens * kWidth, 1, 1))),
        gate(reference::narrow(reference::random(kExperts * kWidth, 1, 2))),
        experts(reference::narrow(reference::random(3 * kExperts * kWidth * kHidden, 1, 3))),
        state(static_cast<size_t>(parse_router(expression).state_size(kExperts))),
        y(x.size()),
        router(parse_router(expression)) {
    router.initial_state(kExperts, state);
    tensors.gate = {Weight(gate.data(), tensor::DType::kF32, kExperts, kWidth)};
    const float* next = experts.data();
    for (int e = 0; e < kExperts; ++e)
      for (auto [list, rows] : {std::pair{&tensors.w1, kHidden}, {&tensors.w3, kHidden}, {&tensors.w2, kWidth}}) {
        list->push_back(Weight(next, tensor::DType::kF32, rows, kWidth * kHidden / rows));
        next += kWidth * kHidden;
      }
    if (!state.empty()) tensors.state = Weight(state.data(), tensor::DType::kF32, 1, static_cast<int>(state.size()));
  }

  MoeStep step() {
    MoeStep step;
    step.tokens.x = reference::matrix(x, kWidth);
    step.output = reference::matrix(y, kWidth);
    return step;
  }

  void forward() { moe_forward(router, tensors, step(), activations, threads); }

  int stay(int t) const {
    const Plan& plan = activations.routing.plan;
    int count = 0;
    for (int s = 0; s < plan.choices; ++s) count += plan.edge[static_cast<size_t>(t * plan.choices + s)] >= 0;
    return count;
  }

  // The gradients of x, gate and experts, one after another.
  std::vector<float> backward(const std::vector<float>& dy) {
    std::vector<float> all(x.size() + gate.size() + experts.size()), dstate(state.size());
    MoeTensors<Matrix<float>> gradients;
    gradients.gate = {{all.data() + x.size(), kExperts, kWidth}};
    float* next = all.data() + x.size() + gate.size();
    for (int e = 0; e < kExperts; ++e)
      for (auto [list, rows] : {std::pair{&gradients.w1, kHidden}, {&gradients.w3, kHidden}, {&gradients.w2, kWidth}}) {
        list->push_back({next, rows, kWidth * kHidden / rows});
        next += kWidth * kHidden;
      }
    Buffer<float> dhidden(1 << 12);
    moe_backward(router, tensors, activations,
                 {step(), reference::matrix(dy, kWidth), {all.data(), kTokens, kWidth}, 0, dhidden}, gradients,
                 threads);
    return all;
  }
};

const std::string kHead = "linear > top_k(3) > skip(tail=0.12", kTail = ") > softmax(renorm)";

TEST_CASE("amends: texts; the routers that they go with") {
  reference::check_text<Skip>(
      {"skip(tail=0.3, factors)", "skip(ser=0.2, least=2, channels=16)", "skip(0.5, factors)",
       "skip(count=2, channels=8)"},
      {"skip(tail=0.3, channels=0)", "skip(tail=0.3, channels=1.5)", "skip(tail=0.3, factors, channels=8)"});
  CHECK(parse_router(kHead + ", factors" + kTail).state_size(9) == 2);
  CHECK(parse_router(kHead + ", channels=10" + kTail).state_size(9) == 40);
  CHECK(parse_router("linear > groups(3, 1, 2) > skip(tail=0.3, factors) > chosen + bias(0.1)").state_size(9) == 1 + 9);
  CHECK_THROWS_AS(parse_router("linear > positive > skip(tail=0.3, factors) > sigmoid"), base::Error);
  CHECK(!parse_router(kHead + ", channels=10" + kTail).misfit(9, 8).empty());
  CHECK(parse_router(kHead + ", channels=8" + kTail).misfit(9, 8).empty());
}

TEST_CASE("amends: a token's output takes the numbers of how many of its experts stay") {
  Amended plain(kHead + kTail);
  plain.forward();
  for (const std::string form : {", factors", ", channels=6"}) {
    CAPTURE(form);
    Amended amended(kHead + form + kTail);
    amended.forward();
    CHECK(amended.y == plain.y);  // the first numbers change nothing
    std::ranges::copy(reference::narrow(reference::random(amended.state.size(), 1, 7)), amended.state.begin());
    amended.forward();
    std::vector<int> seen(4);
    for (int t = 0; t < kTokens; ++t) {
      const int stay = amended.stay(t);
      ++seen[static_cast<size_t>(stay)];
      for (int d = 0; d < kWidth; ++d) {
        const float before = plain.y[static_cast<size_t>(t * kWidth + d)];
        double after = static_cast<double>(before);
        if (stay < 3 && amended.state.size() == 2) after *= static_cast<double>(amended.state[stay - 1]);
        if (stay < 3 && amended.state.size() == 24)
          after = after * static_cast<double>(amended.state[12 * (stay - 1) + d]) +
                  static_cast<double>(amended.state[12 * (stay - 1) + 6 + d]);
        CHECK(static_cast<double>(amended.y[static_cast<size_t>(t * kWidth + d)]) ==
              doctest::Approx(after).epsilon(1e-5));
      }
    }
    CHECK((seen[1] > 0 && seen[2] > 0 && seen[3] > 0));
  }
}

TEST_CASE("amends: the gradient is that of the layer without them, at an output's gradient times their factor") {
  Amended plain(kHead + kTail);
  const auto dy = reference::narrow(reference::random(kTokens * kWidth, 1, 9));
  for (const std::string form : {", factors", ", channels=6"}) {
    CAPTURE(form);
    Amended amended(kHead + form + kTail);
    std::ranges::copy(reference::narrow(reference::random(amended.state.size(), 1, 7)), amended.state.begin());
    amended.forward();
    plain.forward();
    std::vector<float> scaled = dy;
    for (int t = 0; t < kTokens; ++t)
      for (int d = 0; d < kWidth; ++d)
        if (const int stay = amended.stay(t); stay < 3)
          scaled[static_cast<size_t>(t * kWidth + d)] *=
              amended.state.size() == 2 ? amended.state[stay - 1] : amended.state[12 * (stay - 1) + d];
    CHECK(amended.backward(dy) == plain.backward(scaled));
  }
}

}  // namespace
}  // namespace choir::moe
