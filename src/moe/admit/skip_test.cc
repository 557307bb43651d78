#include "moe/admit/skip.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/error.h"
#include "moe/admit/all.h"
#include "moe/propose/top_k.h"
#include "moe/reference/data.h"
#include "moe/reference/layer.h"

namespace choir::moe {
namespace {

constexpr int kTokens = 200, kExperts = 6;

struct Problem {
  std::vector<float> z = reference::narrow(reference::random(kTokens * kExperts, 1, 1));
  std::vector<int32_t> proposed;

  Problem() { TopK{2}.propose(reference::matrix(z, kExperts), proposed); }

  std::vector<int32_t> admitted(float beta) const {
    std::vector<int32_t> chosen = proposed;
    Skip{beta}.admit(reference::matrix(z, kExperts), 2, chosen);
    return chosen;
  }
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
  const float z[] = {1.5f, 0.25f, -2.0f};
  const float ratio = weight_ratio(z[0], z[1]);
  CHECK(ratio == doctest::Approx(std::exp(-1.25)));
  for (const bool above : {false, true}) {
    std::vector<int32_t> chosen{0, 1};
    Skip{above ? std::nextafter(ratio, 1.0f) : ratio}.admit({z, 1, 3}, 2, chosen);
    CHECK(chosen == std::vector<int32_t>{0, above ? -1 : 1});
  }
}

TEST_CASE("skip: beta 0 and \"all\" change nothing, a huge beta leaves the first alone") {
  const Problem p;
  CHECK(p.admitted(0) == p.proposed);
  std::vector<int32_t> all = p.proposed;
  AdmitAll{}.admit(reference::matrix(p.z, kExperts), 2, all);
  CHECK(all == p.proposed);
  const auto first = p.admitted(1e30f);
  for (int t = 0; t < kTokens; ++t) {
    CHECK(first[2 * t] == p.proposed[2 * t]);
    CHECK(first[2 * t + 1] == -1);
  }
}

TEST_CASE("skip: what another word dropped stays dropped") {
  const float z[] = {1.0f, 0.0f};
  for (const std::vector<int32_t>& before : {std::vector<int32_t>{-1, 1}, {0, -1}, {-1, -1}}) {
    std::vector<int32_t> chosen = before;
    Skip{1e30f}.admit({z, 1, 2}, 2, chosen);
    CHECK(chosen == before);
  }
}

TEST_CASE("skip: refuses routings that are not top-2") {
  const float z[] = {1.0f, 0.0f};
  std::vector<int32_t> chosen{0};
  CHECK_THROWS_AS(Skip{0.5f}.admit({z, 1, 2}, 1, chosen), base::Error);
}

}  // namespace
}  // namespace choir::moe
