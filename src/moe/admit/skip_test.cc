#include "moe/admit/skip.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/error.h"
#include "moe/admit/all.h"
#include "moe/propose/top_k.h"
#include "moe/reference/case.h"
#include "moe/reference/layer.h"

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
  const float ratio = weight_ratio(z[0], z[1]);
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

}  // namespace
}  // namespace choir::moe
