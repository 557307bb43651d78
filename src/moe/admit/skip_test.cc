#include "moe/admit/skip.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/error.h"
#include "moe/admit/all.h"
#include "moe/propose/top_k.h"
#include "moe/reference/case.h"
#include "moe/reference/layer.h"
#include "moe/reference/words.h"

namespace choir::moe {
namespace {

constexpr int kTokens = 200, kExperts = 6;

// What the word leaves of the choices of tokens with scores z.
template <class Word>
std::vector<int32_t> left_by(const Word& word, const std::vector<float>& z, int experts,
                             const std::vector<int32_t>& chosen) {
  reference::Case c(static_cast<int>(z.size()) / experts, 1, experts);
  c.set_scores(z);
  c.set_choices(chosen, chosen);
  word.admit(c.context(), c.routing);
  CHECK(c.routing.proposed == chosen);
  return c.routing.chosen;
}

struct Problem {
  std::vector<float> z = reference::narrow(reference::random(kTokens * kExperts, 1, 1));
  std::vector<int32_t> proposed;

  Problem() {
    reference::Case c(kTokens, 1, kExperts);
    TopK{2}.propose(c.context(), reference::matrix(z, kExperts), proposed);
  }

  std::vector<int32_t> admitted(float beta) const { return left_by(Skip{beta}, z, kExperts, proposed); }
};

TEST_CASE("skip: drops the second expert where its softmax weight is below beta times the first's") {
  const Problem p;
  for (const float beta : {0.1f, 0.4f, 0.9f}) {
    const auto chosen = p.admitted(beta);
    int skipped = 0;
    for (int t = 0; t < kTokens; ++t) {
      const std::vector<double> row(p.z.begin() + t * kExperts, p.z.begin() + (t + 1) * kExperts);
      const auto w = reference::softmax(row);
      const bool keep = w[p.proposed[2 * t + 1]] >= static_cast<double>(beta) * w[p.proposed[2 * t]];
      CHECK(chosen[2 * t] == p.proposed[2 * t]);
      CHECK(chosen[2 * t + 1] == (keep ? p.proposed[2 * t + 1] : -1));
      skipped += !keep;
    }
    CHECK((0 < skipped && skipped < kTokens));
  }
}

TEST_CASE("skip: strict at equality") {
  const std::vector<float> z{1.5f, 0.25f, -2.0f};
  const float ratio = weight_ratio(SubsetRule::Gain::kSoftmax, z[0], z[1]);
  CHECK(ratio == doctest::Approx(std::exp(-1.25)));
  for (const bool above : {false, true}) {
    const Skip skip{above ? std::nextafter(ratio, 1.0f) : ratio};
    CHECK(left_by(skip, z, 3, {0, 1}) == std::vector<int32_t>{0, above ? -1 : 1});
  }
}

TEST_CASE("skip: beta 0 and \"all\" change nothing, a huge beta leaves the first alone") {
  const Problem p;
  CHECK(p.admitted(0) == p.proposed);
  CHECK(left_by(AdmitAll{}, p.z, kExperts, p.proposed) == p.proposed);
  const auto first = p.admitted(1e30f);
  for (int t = 0; t < kTokens; ++t) {
    CHECK(first[2 * t] == p.proposed[2 * t]);
    CHECK(first[2 * t + 1] == -1);
  }
}

TEST_CASE("skip: what another word dropped stays dropped") {
  for (const std::vector<int32_t>& before : {std::vector<int32_t>{-1, 1}, {0, -1}, {-1, -1}})
    CHECK(left_by(Skip{1e30f}, {1, 0}, 2, before) == before);
}

TEST_CASE("skip: refuses routings that are not top-2") {
  CHECK_THROWS_AS(left_by(Skip{0.5f}, {1, 0}, 2, {0}), base::Error);
}

// Which of the choices stay, by the definitions, in double: weights sorted, and the first i of them.
struct Naive {
  std::vector<double> weight;  // largest first
  std::vector<int32_t> expert;

  Naive(const std::vector<float>& z, int t, std::span<const int32_t> chosen, bool sigmoid) {
    const float* row = z.data() + t * kExperts;
    for (const int32_t e : chosen)
      if (e >= 0) expert.push_back(e);
    const auto w = [&](int32_t e) {
      const double v = static_cast<double>(row[e]);
      return sigmoid ? 1 / (1 + std::exp(-v)) : std::exp(v);
    };
    std::ranges::stable_sort(expert, [&](int32_t a, int32_t b) { return w(a) > w(b); });
    for (const int32_t e : expert) weight.push_back(w(e));
  }

  int by_tail(double beta) const {
    double all = 0;
    for (const double w : weight) all += w;
    for (size_t i = 1; i < weight.size(); ++i) {
      double tail = 0;
      for (size_t q = i; q < weight.size(); ++q) tail += weight[q];
      if (tail <= beta * all) return static_cast<int>(i);
    }
    return static_cast<int>(weight.size());
  }
  int by_best(double t, int least) const {
    int stay = 0;
    for (size_t i = 0; i < weight.size(); ++i) stay += static_cast<int>(i) < least || weight[i] > t * weight[0];
    return stay;
  }
  int by(const Skip& skip) const {
    if (skip.by == Skip::By::kTail) return by_tail(static_cast<double>(skip.beta));
    if (skip.by == Skip::By::kBest) return by_best(static_cast<double>(skip.beta), skip.least);
    return std::min(skip.least, static_cast<int>(weight.size()));
  }
};

// Four choices of each token in no order, some of them missing, as a selection bias or another word would leave them.
std::vector<int32_t> unordered_choices(uint64_t seed, double missing) {
  auto chosen = reference::random_choices(kTokens, 4, kExperts, 0, seed);
  base::Rng rng(seed + 1);
  for (int32_t& e : chosen)
    if (rng.uniform() < missing) e = -1;
  return chosen;
}

TEST_CASE("skip: by tail, by the best and by count, any number of choices in any order, by softmax or sigmoid") {
  const Problem p;
  for (const bool sigmoid : {false, true})
    for (const double missing : {0.0, 0.3})
      for (Skip skip : {Skip{0.05f, Skip::By::kTail}, Skip{0.3f, Skip::By::kTail}, Skip{0.8f, Skip::By::kTail},
                        Skip{0.2f, Skip::By::kBest}, Skip{0.7f, Skip::By::kBest, 2}, Skip{0, Skip::By::kCount, 1},
                        Skip{0, Skip::By::kCount, 3}, Skip{0, Skip::By::kCount, 9}}) {
        skip.gain = sigmoid ? SubsetRule::Gain::kSigmoid : SubsetRule::Gain::kSoftmax;
        CAPTURE(skip.text());
        CAPTURE(sigmoid);
        const auto chosen = unordered_choices(5, missing), left = left_by(skip, p.z, kExperts, chosen);
        for (int t = 0; t < kTokens; ++t) {
          const auto slots = std::span(chosen).subspan(static_cast<size_t>(t) * 4, 4);
          const Naive naive(p.z, t, slots, sigmoid);
          const int stay = naive.by(skip);
          CHECK((stay >= 1 || naive.expert.empty()));
          for (size_t s = 0; s < 4; ++s) {
            const auto place = std::ranges::find(naive.expert, slots[s]) - naive.expert.begin();
            CHECK(left[static_cast<size_t>(t) * 4 + s] == (place < stay ? slots[s] : -1));
          }
        }
      }
}

TEST_CASE("skip: of a selection bias's two choices the one with the smaller weight goes") {
  const std::vector<float> z{0, 2, -1};
  CHECK(left_by(Skip{0.5f}, z, 3, {0, 1}) == std::vector<int32_t>{-1, 1});
  CHECK(left_by(Skip{0.1f}, z, 3, {0, 1}) == std::vector<int32_t>{0, 1});
  const float ratio = weight_ratio(SubsetRule::Gain::kSigmoid, 0, 2);
  CHECK(ratio == doctest::Approx(0.5 / (1 / (1 + std::exp(-2.0)))));
  CHECK(ratio == weight_ratio(SubsetRule::Gain::kSigmoid, 2, 0));
}

TEST_CASE("skip: at equality a tail and a weight beside the best are skipped; of 0 nothing is") {
  const float half = std::log(0.5f), quarter = std::log(0.25f);
  const std::vector<float> z{0, half, quarter, quarter};  // weights 1, 1/2, 1/4, 1/4
  const std::vector<int32_t> chosen{0, 1, 2, 3};
  std::vector<float> feature(3);
  const std::vector<float> weight{1, std::exp(half), std::exp(quarter), std::exp(quarter)};
  Skip::features(Skip::By::kTail, weight, feature);
  CHECK(feature[0] == doctest::Approx(0.5));
  CHECK(feature[2] == doctest::Approx(0.125));
  const auto stay = [&](Skip::By by, float beta) {
    const auto left = left_by(Skip{beta, by}, z, 4, chosen);
    return std::ranges::count_if(left, [](int32_t e) { return e >= 0; });
  };
  CHECK(stay(Skip::By::kTail, feature[1]) == 2);
  CHECK(stay(Skip::By::kTail, std::nextafter(feature[1], 0.0f)) == 3);
  Skip::features(Skip::By::kBest, weight, feature);
  CHECK(stay(Skip::By::kBest, feature[0]) == 1);
  CHECK(stay(Skip::By::kBest, std::nextafter(feature[0], 0.0f)) == 2);
  const std::vector<float> far{0, -200, -300, -400};  // weights that underflow
  for (const Skip::By by : {Skip::By::kTail, Skip::By::kBest}) {
    CHECK(stay(by, 0) == 4);
    CHECK(stay(by, 1) == 1);
    CHECK(left_by(Skip{0, by}, far, 4, chosen) == chosen);
  }
}

TEST_CASE("skip: with all weights equal a tail leaves the upper part of K(1 - beta), the best leaves all") {
  const std::vector<float> z(8, 0.5f);
  const std::vector<int32_t> chosen{0, 1, 2, 3, 4, 5, 6, 7};
  for (const auto& [beta, stay] : {std::pair{0.25f, 6}, {0.3f, 6}, {0.5f, 4}, {0.9f, 1}}) {
    const auto left = left_by(Skip{beta, Skip::By::kTail}, z, 8, chosen);
    for (int s = 0; s < 8; ++s) CHECK(left[static_cast<size_t>(s)] == (s < stay ? s : -1));
    CHECK(left_by(Skip{beta, Skip::By::kBest}, z, 8, chosen) == chosen);
  }
}

TEST_CASE("skip: texts read back as themselves; ranges") {
  reference::check_text<Skip>(
      {"skip(0.4)", "skip(1e+30)", "skip(tail=0.3)", "skip(ser=0.2)", "skip(ser=0.2, least=2)", "skip(count=3)"},
      {"skip", "skip(-1)", "skip(tail=2)", "skip(ser=-0.1)", "skip(count=0)", "skip(count=1.5)",
       "skip(tail=0.1, least=2)", "skip(0.4, count=2)", "skip(tail=0.1, ser=0.1)"});
}

}  // namespace
}  // namespace choir::moe
