#include "moe/propose/second_random.h"

#include "moe/reference/selection.h"
#include "moe/reference/words.h"

namespace choir::moe {
namespace {

TEST_CASE("second_random: text") { reference::check_text<SecondRandom>({"second_random"}, {"second_random(2)"}); }

TEST_CASE("second_random: evaluation takes the two best") {
  constexpr int kTokens = 100, kExperts = 6;
  reference::Case c(kTokens, 1, kExperts);
  c.rule = Rule::kDecode;
  const auto z = reference::with_ties(reference::random(kTokens * kExperts, 1, 5));
  CHECK(reference::proposals(SecondRandom{}, c, reference::narrow(z)) == reference::top_k(z, kExperts, 2));
}

TEST_CASE("second_random: training draws the second in proportion to the other probabilities") {
  constexpr int kTokens = 60000;
  const std::vector<float> row{0.5f, 2.0f, 1.0f, -1.0f};
  std::vector<float> z;
  for (int t = 0; t < kTokens; ++t) z.insert(z.end(), row.begin(), row.end());
  reference::Case c(kTokens, 1, 4);
  const auto list = reference::proposals(SecondRandom{}, c, z);
  std::vector<double> count(4);
  for (size_t i = 0; i < list.size(); i += 2) {
    CHECK(list[i] == 1);
    count[static_cast<size_t>(list[i + 1])] += 1.0 / kTokens;
  }
  const double total = std::exp(0.5) + std::exp(1.0) + std::exp(-1.0);
  CHECK(count[1] == 0);
  for (const int e : {0, 2, 3}) {
    const double p = std::exp(static_cast<double>(row[static_cast<size_t>(e)])) / total;
    CHECK(std::abs(count[static_cast<size_t>(e)] - p) < 5 * std::sqrt(p * (1 - p) / kTokens));
  }
  CHECK(reference::proposals(SecondRandom{}, c, z) == list);  // the same seed
  c.seed = 2;
  CHECK(reference::proposals(SecondRandom{}, c, z) != list);
}

TEST_CASE("second_random: far, masked and NaN scores") {
  reference::Case c(1, 1, 3);
  CHECK(reference::proposals(SecondRandom{}, c, {1000, -1000, -2000}) == std::vector<int32_t>{0, 1});
  CHECK(reference::proposals(SecondRandom{}, c, {1, -HUGE_VALF, -HUGE_VALF}) == std::vector<int32_t>{0, -1});
  CHECK(reference::proposals(SecondRandom{}, c, {NAN, 1, 0}) == std::vector<int32_t>{1, 2});
  CHECK(reference::proposals(SecondRandom{}, c, {NAN, NAN, NAN}) == std::vector<int32_t>{-1, -1});
}

}  // namespace
}  // namespace choir::moe
