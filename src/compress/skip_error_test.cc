#include "compress/skip_error.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "compress/test_layer.h"
#include "moe/admit/skip.h"

namespace choir::compress {
namespace {

using Gain = moe::SubsetRule::Gain;
using Over = GainRule::Over;

struct Router {
  const char* expression;
  int experts, top_k;
};

constexpr Router kRouters[] = {
    {"linear > top_k(2) > all > chosen", 6, 2},
    {"linear > top_k(4) > all > softmax(renorm)", 9, 4},
    {"linear > top_k(4) > all > softmax(renorm, scale=1.5)", 9, 4},
    {"linear > top_k(3) > all > softmax(scale=4)", 9, 3},
    {"linear(sigmoid) > top_k(4) > all > sigmoid_norm(scale=2.5) + bias(0.001)", 9, 4},
    {"linear > top_k(3) > all > sigmoid", 9, 3},
    {"linear > top_k(3) > all > chosen + bias(0.001)", 9, 3},
    {"linear > groups(3, 2, 3) > all > softmax(renorm)", 9, 3},
    {"linear(sigmoid) > groups(3, 2, 3, by=top2) > all > sigmoid_norm(scale=2.5) + bias(0.001)", 9, 3},
    {"linear(sqrt_softplus) > top_k(3) > all > sqrt_softplus_norm(scale=1.5) + bias(0.001)", 9, 3},
};

// A token's chosen experts with their undivided weights, from the definitions in double.
struct Token {
  Row x, p;
  std::vector<int> by_key, chosen;  // all experts, the best first; those of the layer, the largest p first

  Token(const ObservedLayer& layer, const Router& router, int t) : x(as_rows(layer.x_rows())[static_cast<size_t>(t)]) {
    const auto& moe = layer.tensors();
    const moe::SubsetRule rule = layer.record.rule;
    const Row z = plain_product(moe.gate[0], x);
    Row key = z;
    for (const double v : z) p.push_back(gain_of(rule.gain, v));
    if (std::string(router.expression).starts_with("linear(s")) key = p;
    if (moe.state.data)
      for (size_t e = 0; e < key.size(); ++e) key[e] += static_cast<double>(tensor::as_vector(moe.state)[e]);
    by_key.resize(key.size());
    std::iota(by_key.begin(), by_key.end(), 0);
    std::ranges::stable_sort(by_key, [&](int a, int b) { return key[a] > key[b]; });
    std::ranges::stable_partition(by_key, [&](int e) { return may_choose(e, key, rule); });
    for (int i = 0; static_cast<int>(chosen.size()) < router.top_k; ++i)
      if (may_choose(by_key[i], key, rule)) chosen.push_back(by_key[i]);
    std::ranges::stable_sort(chosen, [&](int a, int b) { return p[a] > p[b]; });
  }

  static double gain_of(Gain gain, double z) {
    if (gain == Gain::kSigmoid) return 1 / (1 + std::exp(-z));
    return gain == Gain::kSoftmax ? std::exp(z) : std::sqrt(std::log1p(std::exp(z)));
  }

  // Whether the expert's group is among those with the best experts.
  static bool may_choose(int e, const Row& key, const moe::SubsetRule& rule) {
    const int size = static_cast<int>(key.size()) / rule.groups;
    const auto worth = [&](int g) {
      Row members(key.begin() + g * size, key.begin() + (g + 1) * size);
      std::ranges::sort(members, std::greater<>());
      return members[0] + (rule.by_top_two ? members[1] : 0);
    };
    int better = 0;
    for (int g = 0; g < rule.groups; ++g) better += worth(g) > worth(e / size);
    return better < rule.kept_groups;
  }

  double mass(const std::vector<int>& list, int count) const {
    double sum = 0;
    for (int i = 0; i < count; ++i) sum += p[static_cast<size_t>(list[static_cast<size_t>(i)])];
    return sum;
  }

  double divisor(const moe::SubsetRule& rule, const GainRule& gain, int kept) const {
    if (gain.over == Over::kKept) return mass(chosen, kept);
    if (gain.over == Over::kBest) return mass(by_key, gain.best);
    if (rule.over == moe::SubsetRule::Over::kNothing) return 1;
    return rule.over == moe::SubsetRule::Over::kAll ? mass(by_key, static_cast<int>(p.size()))
                                                    : mass(chosen, static_cast<int>(chosen.size()));
  }

  Row output(const ObservedLayer& layer, const GainRule& gain, int kept) const {
    const moe::SubsetRule& rule = layer.record.rule;
    Row y(x.size(), 0.0);
    for (int i = 0; i < kept; ++i) {
      const int e = chosen[static_cast<size_t>(i)];
      const Row f = plain_expert(layer.tensors(), e, x);
      const double b = static_cast<double>(rule.scale) * p[static_cast<size_t>(e)] / divisor(rule, gain, kept);
      for (size_t d = 0; d < y.size(); ++d) y[d] += b * f[d];
    }
    return y;
  }
};

double squared(const Row& a, const Row& b) {
  double sum = 0;
  for (size_t d = 0; d < a.size(); ++d) sum += (a[d] - b[d]) * (a[d] - b[d]);
  return sum;
}

TEST_CASE("skip error: keeping the first i, divided by anything, costs what plain loops say") {
  for (const Router& router : kRouters) {
    CAPTURE(router.expression);
    const ObservedLayer layer(router.expression, router.experts, router.top_k);
    std::vector<GainRule> rules{{Over::kOwn}, {Over::kKept}};
    const moe::SubsetRule& rule = layer.record.rule;
    const int most = router.experts / rule.groups * rule.kept_groups;
    for (int best = 1; best <= most; ++best) rules.push_back({Over::kBest, best});
    for (int t = 0; t < layer.record.tokens(); t += 7) {
      const Token token(layer, router, t);
      const SkipPrefix prefix = skip_prefix(layer.record, t, router.experts);
      REQUIRE(prefix.weight.size() == static_cast<size_t>(router.top_k));
      const Row full = token.output(layer, {}, router.top_k);
      const double answer = squared(full, Row(full.size(), 0.0));
      CHECK(prefix.answer == doctest::Approx(answer).epsilon(1e-5));
      for (const GainRule& gain : rules)
        for (int kept = 1; kept <= router.top_k; ++kept) {
          const double expected = squared(full, token.output(layer, gain, kept));
          CHECK(std::abs(skip_error(layer.record.rule, prefix, kept, gain) - expected) < 1e-6 * (answer + expected));
        }
    }
  }
}

// The layer run again with static counts and each weigh word that its rules can be written in.
TEST_CASE("skip error: equals the layer run again with the skipping word and the weigh word") {
  for (const Router& router : kRouters) {
    const ObservedLayer layer(router.expression, router.experts, router.top_k);
    const std::string full = layer.made.model->router(0).expression();
    for (const GainRule& gain : gain_rules(layer.record.rule, router.top_k, router.experts))
      for (int kept = 1; kept <= router.top_k; ++kept) {
        const std::string skipping =
            moe::with_weights(moe::with_admission(full, moe::Skip{.by = moe::Skip::By::kCount, .least = kept}.text()),
                              weigh_word(layer.record.rule, gain));
        CAPTURE(skipping);
        const std::vector<double> again = layer.run_again(skipping);
        double answers = 0;
        for (int t = 0; t < layer.record.tokens(); ++t)
          answers += skip_prefix(layer.record, t, 0).answer / layer.record.tokens();
        for (int t = 0; t < layer.record.tokens(); ++t) {
          const SkipPrefix prefix = skip_prefix(layer.record, t, router.experts);
          const double error = skip_error(layer.record.rule, prefix, kept, gain);
          CHECK(std::abs(error - again[static_cast<size_t>(t)]) < 1e-6 * (answers + error));
        }
      }
  }
}

TEST_CASE("skip error: which rules a layer's words can be written in") {
  const auto words = [](const char* expression, int k, int experts) {
    const moe::SubsetRule rule = *moe::parse_router(expression).subset_rule();
    std::vector<std::string> all;
    for (const GainRule& gain : gain_rules(rule, k, experts)) all.push_back(weigh_word(rule, gain));
    return all;
  };
  CHECK(words("linear > top_k(2) > all > chosen", 2, 8) ==
        std::vector<std::string>{"softmax(renorm)", "chosen", "chosen(over=3)", "chosen(over=4)", "chosen(over=6)",
                                 "chosen(over=8)"});
  CHECK(words("linear > top_k(3) > all > softmax(renorm)", 3, 4) ==
        std::vector<std::string>{"softmax(renorm)", "chosen", "chosen(over=2)", "chosen(over=4)"});
  CHECK(words("linear > groups(2, 1, 2) > all > softmax(renorm)", 2, 8) ==
        std::vector<std::string>{"softmax(renorm)", "chosen", "chosen(over=3)", "chosen(over=4)"});
  CHECK(words("linear > top_k(2) > all > chosen", 2, 64) ==
        std::vector<std::string>{"softmax(renorm)", "chosen", "chosen(over=3)", "chosen(over=4)", "chosen(over=6)",
                                 "chosen(over=8)", "chosen(over=16)"});
  CHECK(words("linear > top_k(2) > all > softmax(renorm, scale=2)", 2, 8) ==
        std::vector<std::string>{"softmax(renorm, scale=2)"});
  CHECK(words("linear > top_k(2) > all > softmax(scale=2)", 2, 8) == std::vector<std::string>{"softmax(scale=2)"});
  CHECK(words("linear > top_k(2) > all > sigmoid", 2, 8) == std::vector<std::string>{"sigmoid"});
  CHECK(words("linear > top_k(2) > all > sigmoid(scale=2)", 2, 8) == std::vector<std::string>{"sigmoid(scale=2)"});
  const auto deepseek = words("deepseek_v3", 8, 64);  // four of eight groups: 32 experts
  CHECK(deepseek.size() == 2 + 14 + 2);
  CHECK(deepseek[0] == "sigmoid_norm(scale=2.5)");
  CHECK(deepseek[1] == "sigmoid_norm(scale=2.5, kept)");
  CHECK(deepseek[2] == "sigmoid_norm(scale=2.5, over=2)");
  CHECK(deepseek.back() == "sigmoid_norm(scale=2.5, over=32)");
  CHECK(words("deepseek_v4", 6, 7) ==
        std::vector<std::string>{"sqrt_softplus_norm(scale=1.5)", "sqrt_softplus_norm(scale=1.5, kept)",
                                 "sqrt_softplus_norm(scale=1.5, over=2)", "sqrt_softplus_norm(scale=1.5, over=3)",
                                 "sqrt_softplus_norm(scale=1.5, over=4)", "sqrt_softplus_norm(scale=1.5, over=5)",
                                 "sqrt_softplus_norm(scale=1.5, over=7)"});
}

}  // namespace
}  // namespace choir::compress
