#include "moe/propose/sinkhorn.h"

#include "moe/reference/selection.h"
#include "moe/reference/words.h"

namespace choir::moe {
namespace {

constexpr int kTokens = 300, kExperts = 6;

TEST_CASE("sinkhorn: text and range") {
  reference::check_text<Sinkhorn>({"sinkhorn(1)", "sinkhorn(2)"}, {"sinkhorn", "sinkhorn(0)", "sinkhorn(1,2)"});
}

std::vector<double> skewed(double scale, uint64_t seed) {
  auto z = reference::random(kTokens * kExperts, scale, seed);
  for (size_t i = 0; i < z.size(); ++i)
    z[i] = static_cast<double>(static_cast<float>(z[i] - scale * static_cast<double>(i % kExperts)));
  return z;
}

TEST_CASE("sinkhorn: training takes the best of the balanced matrix") {
  for (const double scale : {1e-2, 0.3, 1.0, 4.0})
    for (const int k : {1, 2}) {
      CAPTURE(scale);
      CAPTURE(k);
      reference::Case c(kTokens, 1, kExperts);
      const auto z = skewed(scale, 3);
      const auto balanced = reference::sinkhorn(z, kExperts);
      CHECK(reference::proposals(Sinkhorn{k}, c, reference::narrow(z)) ==
            reference::top_k(balanced, kExperts, static_cast<size_t>(k)));
    }
}

TEST_CASE("sinkhorn: loads even out, evaluation takes the best of the scores") {
  reference::Case c(kTokens, 1, kExperts);
  const auto z = skewed(1, 5);
  const auto most = [&](const std::vector<int32_t>& list) {
    std::vector<int> loads(kExperts);
    for (const int32_t e : list) ++loads[static_cast<size_t>(e)];
    return std::ranges::max(loads);
  };
  CHECK(most(reference::proposals(Sinkhorn{1}, c, reference::narrow(z))) < 1.5 * kTokens / kExperts);
  c.rule = Rule::kDecode;
  const auto plain = reference::proposals(Sinkhorn{1}, c, reference::narrow(z));
  CHECK(plain == reference::top_k(z, kExperts, 1));
  CHECK(most(plain) > 2 * kTokens / kExperts);
}

TEST_CASE("sinkhorn: padding takes no part, masked experts and NaN do not break it") {
  reference::Case plain(kTokens, 1, kExperts), padded(2 * kTokens, 1, kExperts);
  const auto z = reference::narrow(skewed(1, 6));
  std::vector<float> wide(2 * z.size(), 7.0f);
  std::vector<int> where;
  for (int t = 0; t < kTokens; ++t) {
    where.push_back(2 * t + 1);
    std::copy_n(z.begin() + t * kExperts, kExperts, wide.begin() + where.back() * kExperts);
  }
  padded.padding.assign(2 * kTokens, 1);
  for (const int t : where) padded.padding[static_cast<size_t>(t)] = 0;
  const auto want = reference::proposals(Sinkhorn{1}, plain, z);
  CHECK(reference::rows_of(reference::proposals(Sinkhorn{1}, padded, wide), 1, where) == want);

  std::vector<float> masked = z;
  for (size_t t = 0; t < kTokens; ++t) masked[t * kExperts + 2] = -HUGE_VALF;
  masked[1] = NAN;
  for (const int32_t e : reference::proposals(Sinkhorn{2}, plain, masked)) CHECK(e != 2);
  for (const int32_t e : reference::proposals(Sinkhorn{1}, plain, std::vector<float>(z.size(), -HUGE_VALF)))
    CHECK(e == -1);
}

}  // namespace
}  // namespace choir::moe
