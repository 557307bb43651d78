#include "compress/criteria.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "compress/test_layer.h"

namespace choir::compress {
namespace {

// What the formulas of C30 ask for, from the layer run again: the router's own Plan, experts as plain loops.
struct Plain {
  std::vector<double> tokens, mass, norms, squares, gained, seer, easy, peak;

  explicit Plain(const ObservedLayer& layer) {
    const auto experts = static_cast<size_t>(layer.record.experts);
    for (auto* list : {&tokens, &mass, &norms, &squares, &gained, &seer, &easy, &peak}) list->assign(experts, 0.0);
    const auto& weights = layer.made.model->tensors().blocks[0].moe;
    const int n = layer.record.tokens();
    base::Threads threads(1);
    moe::MoeActivations activations;
    tensor::Buffer<float> output(layer.x.size());
    moe::MoeStep step;
    step.tokens.x = layer.x_rows();
    step.output = output.matrix(n, ObservedLayer::kWidth);
    moe::moe_forward(layer.made.model->router(0), weights, step, activations, threads);
    const moe::Plan& plan = activations.routing.plan;
    for (size_t e = 0; e < experts; ++e)
      for (int edge = plan.offset[e]; edge < plan.offset[e + 1]; ++edge)
        add(layer, plan.token[static_cast<size_t>(edge)], e, plan.weight[static_cast<size_t>(edge)],
            step.output.row(plan.token[static_cast<size_t>(edge)]));
  }

  void add(const ObservedLayer& layer, int t, size_t e, double gain, std::span<const float> z) {
    const auto& weights = layer.made.model->tensors().blocks[0].moe;
    double square = 0;
    for (const double v : plain_expert(weights, static_cast<int>(e), layer.input(t))) square += v * v;
    const double norm = std::sqrt(square);
    double hh = 0, ht = 0, tt = 0;
    for (size_t d = 0; d < z.size(); ++d) {
      const double h = layer.middle.span()[static_cast<size_t>(t) * z.size() + d], after = h + z[d];
      hh += h * h;
      ht += h * after;
      tt += after * after;
    }
    const Row logits = plain_product(weights.gate[0], layer.input(t));
    double all = 0;
    for (const double v : logits) all += std::exp(v);
    using Gain = moe::SubsetRule::Gain;
    const double z_e = logits[e];
    const Gain kind = layer.record.rule.gain;
    tokens[e] += 1;
    mass[e] += gain;
    norms[e] += norm;
    squares[e] += square;
    gained[e] += gain * norm;
    seer[e] += kind == Gain::kSigmoid        ? 1 / (1 + std::exp(-z_e))
               : kind == Gain::kSqrtSoftplus ? std::sqrt(std::log1p(std::exp(z_e)))
                                             : std::exp(z_e) / all;
    easy[e] += gain * norm * std::max(1 - ht / std::sqrt(hh * tt), 0.0);
    peak[e] = std::max(peak[e], norm);
  }

  static std::vector<double> over(std::vector<double> sum, const std::vector<double>& count) {
    for (size_t e = 0; e < sum.size(); ++e) sum[e] = count[e] > 0 ? sum[e] / count[e] : 0;
    return sum;
  }
};

TEST_CASE("criteria: every score is that of the layer run again in plain loops, by every rule") {
  for (const TestRule& rule : kTestRules) {
    CAPTURE(rule.router);
    const TestLayer layer(rule, 8);
    const Plain plain(layer);
    const std::map<Criterion, std::vector<double>> expected = {
        {Criterion::kFrequency, plain.tokens},
        {Criterion::kMass, plain.mass},
        {Criterion::kEan, plain.norms},
        {Criterion::kReap, Plain::over(plain.gained, plain.tokens)},
        {Criterion::kMan, Plain::over(plain.norms, plain.tokens)},
        {Criterion::kMsan, Plain::over(plain.squares, plain.tokens)},
        {Criterion::kSeer, plain.seer},
        {Criterion::kEasyEp, plain.easy}};
    for (const auto& [criterion, scores] : expected) {
      CAPTURE(std::string(name_of(criterion)));
      const std::vector<double> found = score_experts(layer.record, criterion, 0, 1);
      REQUIRE(found.size() == scores.size());
      for (size_t e = 0; e < scores.size(); ++e) CHECK(found[e] == doctest::Approx(scores[e]).epsilon(2e-5));
    }
  }
}

TEST_CASE("criteria: an expert without tokens has the score 0, by all but random") {
  const ObservedLayer layer({"linear > top_k(3) > all > chosen", 12, 3, 12, 8});  // few tokens
  LayerRecord record = layer.record;
  // Nobody ranks expert 7 among its own three: it changes places with the last rank that was captured.
  const auto m = static_cast<size_t>(record.ranks);
  for (int t = 0; t < record.tokens(); ++t)
    for (size_t r = 0; r < m; ++r) {
      int32_t& e = record.order[static_cast<size_t>(t) * m + r];
      if (e == 7) std::swap(e, record.order[static_cast<size_t>(t) * m + m - 1]);
    }
  for (const Criterion c : {Criterion::kFrequency, Criterion::kMass, Criterion::kEan, Criterion::kReap, Criterion::kMan,
                            Criterion::kMsan, Criterion::kSeer, Criterion::kEasyEp}) {
    CAPTURE(std::string(name_of(c)));
    const auto scores = score_experts(record, c, 0, 1);
    CHECK(scores[7] == 0);
    CHECK(std::ranges::max(scores) > 0);
  }
  CHECK(score_experts(record, Criterion::kRandom, 0, 1)[7] > 0);
}

TEST_CASE("criteria: random scores follow from seed and layer") {
  const ObservedLayer layer({"linear > top_k(3) > all > chosen", 12, 3, 12, 8});
  const auto scores = [&](int l, uint64_t seed) { return score_experts(layer.record, Criterion::kRandom, l, seed); };
  CHECK(scores(2, 5) == scores(2, 5));
  CHECK(scores(2, 5) != scores(3, 5));
  CHECK(scores(2, 5) != scores(2, 6));
  CHECK(scores(2, 5) != scores(1, 6));
}

TEST_CASE("criteria: names are read back, and a wrong one lists them") {
  size_t count = 0;
  for (const Criterion c :
       {Criterion::kRandom, Criterion::kFrequency, Criterion::kMass, Criterion::kEan, Criterion::kReap, Criterion::kMan,
        Criterion::kMsan, Criterion::kSeer, Criterion::kEasyEp}) {
    CHECK(parse_criterion(name_of(c)) == c);
    count += name_of(c).size() + 2;
  }
  CHECK(criterion_names().size() == count - 2);
  CHECK_THROWS_WITH_AS(parse_criterion("reab"),
                       "an unknown criterion: reab: criterion: known: random, frequency, mass, ean, reap, man, msan, "
                       "seer, easy_ep",
                       base::Error);
}

TEST_CASE("criteria: an answer that is not finite is an error that names layer and expert") {
  const ObservedLayer layer({"linear > top_k(3) > all > chosen", 12, 3, 12, 8});
  LayerRecord record = layer.record;
  std::ranges::fill(record.gram, std::numeric_limits<float>::infinity());
  CHECK_THROWS_WITH_AS(score_experts(record, Criterion::kReap, 4, 0), doctest::Contains("is not finite: layer 4"),
                       base::Error);
}

TEST_CASE("criteria: a super expert is one whose largest answer is far beyond the layer's median") {
  const ObservedLayer layer({"linear > top_k(3) > all > chosen", 12, 3, 60, 8});
  CHECK(super_experts(layer.record, kSuper).empty());
  const Plain plain(layer);
  std::vector<double> sorted = plain.peak;
  std::ranges::sort(sorted);
  const double median = (sorted[5] + sorted[6]) / 2;
  // One token of expert 4 gets an answer `times` the median; its other products stay as they are.
  const auto with_outlier = [&](double times) {
    LayerRecord record = layer.record;
    for (int t = 0; t < record.tokens(); ++t)
      if (record.ranking(t)[0] == 4) {
        record.gram[static_cast<size_t>(t) * record.triangle()] = static_cast<float>(times * times * median * median);
        return record;
      }
    REQUIRE(false);
    return record;
  };
  CHECK(super_experts(with_outlier(12), kSuper) == std::vector<int>{4});
  CHECK(super_experts(with_outlier(8), kSuper).empty());
  CHECK(super_experts(with_outlier(8), 6) == std::vector<int>{4});
}

}  // namespace
}  // namespace choir::compress
