// Whole routers: the gradient by the tokens and the gate's tensors along random directions, against differences. The
// words' own tests are exact; this one finds a word that is not connected.
#include <doctest/doctest.h>

#include "moe/parse.h"
#include "moe/reference/case.h"

namespace choir::moe {
namespace {

constexpr int kTokens = 40, kWidth = 8, kExperts = 6;

struct Problem {
  reference::Case c{kTokens, kWidth, kExperts, 3};
  Router router;
  std::vector<double> pull;  // the loss is the balance loss and sum pull * weight, by token and expert

  explicit Problem(const std::string& expression)
      : router(parse_router(expression)), pull(reference::random(kTokens * kExperts, 1, 5)) {
    c.fill_tensors(router);
    c.state.resize(static_cast<size_t>(router.state_size(kExperts)));
    router.initial_state(kExperts, c.state);
  }

  std::vector<float*> variables() {
    std::vector<float*> all;
    for (float& v : c.x) all.push_back(&v);
    for (auto& t : c.tensor)
      for (float& v : t) all.push_back(&v);
    return all;
  }

  double at(int t, int e) const { return pull[static_cast<size_t>(t * kExperts + e)]; }

  double loss() {
    const auto list = c.weights();
    router.route(c.context(list), Balancing::kOn, c.routing);
    const Plan& plan = c.routing.plan;
    double sum = c.routing.balance_loss;
    for (int e = 0; e < kExperts; ++e)
      for (int i = plan.offset[e]; i < plan.offset[e + 1]; ++i)
        sum += at(plan.token[i], e) * static_cast<double>(plan.weight[i]);
    return sum;
  }

  std::vector<double> gradient() {
    loss();
    const Plan& plan = c.routing.plan;
    std::vector<float> dweight(plan.token.size()), dx(c.x.size());
    for (int e = 0; e < kExperts; ++e)
      for (int i = plan.offset[e]; i < plan.offset[e + 1]; ++i) dweight[i] = static_cast<float>(at(plan.token[i], e));
    std::vector<std::vector<float>> dw;
    for (const auto& t : c.tensor) dw.emplace_back(t.size());
    std::vector<Matrix<float>> views;
    for (size_t i = 0; i < dw.size(); ++i) views.push_back({dw[i].data(), c.shape[i].first, c.shape[i].second});
    const auto list = c.weights();
    router.backward({.dweight = dweight,
                     .balance_scale = 1,
                     .dx = reference::matrix(dx, kWidth),
                     .tensors = views,
                     .previous = {},
                     .dscore = {}},
                    c.context(list), c.routing);
    std::vector<double> all(dx.begin(), dx.end());
    for (const auto& d : dw) all.insert(all.end(), d.begin(), d.end());
    return all;
  }
};

TEST_CASE("router: the gradient of the whole loss agrees with differences") {
  for (const std::string expression :
       {"noisy > top_k(2) > all > chosen + cv2(3) + cv2(3, of=load)",
        "noisy > second_random > all > softmax + entropy(2)",
        "projected_cosine(4) > top_k(2) > all > softmax(renorm) + load(2)",
        "linear > top_p(0.6) > all > chosen + entropy(3) + load(1)",
        "linear > positive > all > identity + l1_adaptive(1, lambda=0.5)",
        "linear > groups(3, 2, 2) > all > sigmoid_norm(2.5) + cv2(2)",
        "linear > mass(0.6) > all > softmax + ortho(0.5)", "dense_cosine > top_k(2) > all > softmax + ortho(0.5)",
        "linear > assignment > all > sigmoid + z_loss(0.1)", "linear > sinkhorn(2) > all > softmax + quantile",
        "linear > all > threshold(2) > sigmoid + cv2(1)",
        "linear > top_k(4) > skip(tail=0.3) > chosen(over=5) + load(1)",
        "linear > top_k(4) > skip(ser=0.3) > softmax(renorm)", "linear > top_k(4) > skip(count=2) > sigmoid_norm(2)",
        "linear > top_k(2) > mask(1, 4) > chosen + load(1) + entropy(1)"}) {
    CAPTURE(expression);
    Problem p(expression);
    const std::vector<double> gradient = p.gradient();
    const std::vector<int32_t> chosen = p.c.routing.chosen;
    const auto variables = p.variables();
    int compared = 0;
    for (uint64_t seed = 20; seed < 40 && compared < 3; ++seed) {
      const auto direction = reference::random(variables.size(), 1, seed);
      const double step = 1e-3;
      std::vector<float> before;
      for (const float* v : variables) before.push_back(*v);
      double value[2], along = 0;
      bool same = true;
      for (const int side : {0, 1}) {
        for (size_t i = 0; i < variables.size(); ++i)
          *variables[i] = before[i] + static_cast<float>((side ? step : -step) * direction[i]);
        value[side] = p.loss();
        same = same && p.c.routing.chosen == chosen;
      }
      for (size_t i = 0; i < variables.size(); ++i) {
        *variables[i] = before[i];
        along += gradient[i] * direction[i];
      }
      if (!same) continue;  // a choice changed on the way: no derivative there
      ++compared;
      const double difference = (value[1] - value[0]) / (2 * step);
      CHECK(std::abs(difference - along) < 0.02 * std::abs(along) + 0.02);
    }
    CHECK(compared > 0);
  }
}

}  // namespace
}  // namespace choir::moe
