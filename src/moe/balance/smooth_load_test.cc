#include "moe/balance/smooth_load.h"

#include <complex>

#include "moe/parse.h"
#include "moe/reference/losses.h"
#include "moe/reference/score.h"
#include "tests/gradients/complex_step.h"

namespace choir::moe {
namespace {

using reference::widened;
constexpr int kTokens = 10, kWidth = 4, kExperts = 6;

struct Problem {
  Router router;
  reference::Case c{kTokens, kWidth, kExperts};
  std::vector<double> noise, bias;  // of each score; of each expert
  size_t k;

  Problem(const std::string& expression, double scale) : router(parse_router(expression)), bias(kExperts) {
    k = static_cast<size_t>(router.choices(kExperts));
    c.fill_tensors(router);
    for (auto& t : c.tensor)  // a difference of floats beside a small deviation is no test of the formula
      for (float& v : t) v /= 2;
    c.state.resize(static_cast<size_t>(router.state_size(kExperts)));
    for (size_t e = 0; e < c.state.size(); ++e) bias[e] = 0.25 * static_cast<double>(e);
    c.state = reference::narrow({bias.begin(), bias.begin() + static_cast<ptrdiff_t>(c.state.size())});
    c.x.assign(c.x.size(), 0.0f);  // there a score is its noise times log 2
    for (const float z : reference::score_of(NoisyScore{}, c)) noise.push_back(static_cast<double>(z) / std::log(2.0));
    c.x = reference::narrow(reference::random(kTokens * kWidth, scale, 7));
  }

  std::vector<double> variables() const {
    std::vector<double> all = widened(c.x);
    for (const auto& t : c.tensor) all.insert(all.end(), t.begin(), t.end());
    return all;
  }

  template <class S>
  S loss(const std::vector<S>& all) const {
    const auto w = all.begin() + kTokens * kWidth, v = w + kExperts * kWidth;
    const std::vector<S> x(all.begin(), w), spread = reference::linear(x, std::vector<S>(v, all.end()), kWidth);
    std::vector<S> clean = reference::linear(x, std::vector<S>(w, v), kWidth), noisy, deviation;
    for (size_t i = 0; i < clean.size(); ++i) {
      clean[i] += bias[i % kExperts];
      deviation.push_back(reference::softplus(spread[i]));
      noisy.push_back(clean[i] + noise[i] * deviation[i]);
    }
    return reference::cv2(reference::top_k_chances<S>({clean, noisy, deviation}, kExperts, k), kExperts, 3, c.padding);
  }

  double route() {
    const auto list = c.weights();
    router.route(c.context(list), Balancing::kOn, c.routing);
    return c.routing.balance_loss;
  }

  std::vector<float> gradient() {
    std::vector<float> all(variables().size()), dweight(c.routing.plan.token.size());
    float* w = all.data() + kTokens * kWidth;
    const Matrix<float> tensors[] = {{w, kExperts, kWidth}, {w + kExperts * kWidth, kExperts, kWidth}};
    const auto list = c.weights();
    router.backward({.dweight = dweight,
                     .balance_scale = 1,
                     .dx = {all.data(), kTokens, kWidth},
                     .tensors = tensors,
                     .previous = {},
                     .dscore = {}},
                    c.context(list), c.routing);
    return all;
  }
};

TEST_CASE("smooth load: loss and gradient agree with the reference and its complex step") {
  for (const std::string router :
       {"noisy > top_k(2) > all > chosen + cv2(3, of=load)", "noisy > top_k(1) > all > softmax + cv2(3, of=load)",
        "noisy > top_k(5) > fifo(factor(0.5)) > chosen + cv2(3, of=load)",
        "noisy > top_k(2) > all > chosen + bias(0.1) + cv2(3, of=load)"})
    for (const double scale : {0.01, 0.3, 1.0, 3.0})
      for (const bool padded : {false, true}) {
        CAPTURE(router);
        CAPTURE(scale);
        Problem p(router, scale);
        if (padded) p.c.padding = {0, 1, 0, 0, 0, 0, 1, 0, 0, 0};
        const auto all = p.variables();
        CHECK(p.route() == doctest::Approx(p.loss(all)).epsilon(1e-5));
        const auto want = complex_step(all, [&](const std::vector<std::complex<double>>& v) { return p.loss(v); });
        CHECK(reference::error(want, p.gradient()) < 1e-5);
      }
}

TEST_CASE("smooth load: without noise there is no loss, and where all experts are named they are even") {
  Problem used("noisy > top_k(2) > all > chosen + cv2(3, of=load)", 1);
  used.c.rule = Rule::kDecode;
  CHECK(used.route() == 0);
  for (const float d : used.gradient()) CHECK(d == 0);
  Problem all("noisy > top_k(6) > all > chosen + cv2(3, of=load)", 1);
  CHECK(all.route() == 0);
  for (const float d : all.gradient()) CHECK(d == 0);
}

TEST_CASE("smooth load: a masked expert has none, and stands in nobody's way") {
  Problem p("noisy > top_k(2) > mask(1, 4) > chosen + cv2(3, of=load)", 1);
  p.route();
  const auto list = p.c.weights();
  const auto load = smooth_load(p.c.context(list), p.c.routing);
  double sum = 0;
  for (const double l : load) sum += l;
  CHECK((load[1] == 0 && load[4] == 0));
  CHECK((sum > kTokens && sum < 4 * kTokens));
  for (const float d : p.gradient()) CHECK(std::isfinite(d));
}

TEST_CASE("smooth load: over many draws its mean is that of the counts") {
  constexpr int kMany = 400, kDraws = 20;
  Problem p("noisy > top_k(2) > all > chosen + cv2(3, of=load)", 1);
  p.c.rows = kMany;
  p.c.x = reference::narrow(reference::random(kMany * kWidth, 0.5, 8));
  std::vector<double> off(kExperts);
  const auto list = p.c.weights();
  for (p.c.seed = 1; p.c.seed <= kDraws; ++p.c.seed) {
    p.route();
    const auto load = smooth_load(p.c.context(list), p.c.routing);
    for (size_t e = 0; e < kExperts; ++e) off[e] += load[e];
    for (const int32_t e : p.c.routing.proposed) off[static_cast<size_t>(e)] -= 1;
  }
  // A count of 8000 has the deviation 45 at most.
  for (const double d : off) CHECK(std::abs(d) < 4 * 45);
}

}  // namespace
}  // namespace choir::moe
