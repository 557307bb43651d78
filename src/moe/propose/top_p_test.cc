#include "moe/propose/top_p.h"

#include "moe/reference/selection.h"
#include "moe/reference/words.h"

namespace choir::moe {
namespace {

constexpr int kTokens = 200, kExperts = 9;

TEST_CASE("top_p and mass: texts and ranges") {
  reference::check_text<TopP>({"top_p(0.4)", "top_p(1, most=3)"},
                              {"top_p", "top_p(0)", "top_p(1.5)", "top_p(0.5,most=-1)"});
  reference::check_text<Mass>({"mass(0.7)", "mass(0.5, most=2)"}, {"mass", "mass(0)", "mass(2)", "mass(0.5,3,4)"});
}

TEST_CASE("top_p and mass: the smallest sets of the reference, ties to the lower expert") {
  for (const double scale : {1e-3, 0.3, 1.0, 5.0, 50.0})
    for (const double share : {0.05, 0.4, 0.75, 0.99}) {
      CAPTURE(scale);
      CAPTURE(share);
      reference::Case c(kTokens, 1, kExperts);
      const auto z = reference::with_ties(reference::random(kTokens * kExperts, scale, 3));
      const auto zf = reference::narrow(z);
      const auto near = static_cast<float>(share);
      CHECK(reference::proposals(TopP{near}, c, zf) == reference::top_p(z, kExperts, share));
      CHECK(reference::proposals(Mass{near}, c, zf) == reference::mass(z, kExperts, share));
    }
}

TEST_CASE("top_p and mass: at most so many, and never a masked expert") {
  reference::Case c(1, 1, 4);
  CHECK(reference::proposals(TopP{0.9f}, c, {0, 0, 0, 0}) == std::vector<int32_t>{0, 1, 2, 3});
  CHECK(reference::proposals(TopP{0.9f, 2}, c, {0, 0, 0, 1}) == std::vector<int32_t>{3, 0});
  CHECK(reference::proposals(TopP{1.0f}, c, {0, -HUGE_VALF, 2, -HUGE_VALF}) == std::vector<int32_t>{2, 0, -1, -1});
  CHECK(reference::proposals(TopP{1.0f}, c, std::vector<float>(4, -HUGE_VALF)) == std::vector<int32_t>(4, -1));
  CHECK(reference::proposals(Mass{0.5f}, c, {1, -3, 2, 0}) == std::vector<int32_t>{2, -1, -1, -1});
  CHECK(reference::proposals(Mass{1.0f}, c, {1, -3, 2, 0}) == std::vector<int32_t>{2, 0, -1, -1});
  CHECK(reference::proposals(Mass{0.5f}, c, {-1, -3, 0, 0}) == std::vector<int32_t>(4, -1));
  CHECK(reference::proposals(Mass{1.0f, 1}, c, {1, 1, 2, 1}) == std::vector<int32_t>{2});
}

TEST_CASE("top_p and mass: a share that equal weights reach exactly is reached") {
  reference::Case c(1, 1, 5);
  CHECK(reference::proposals(TopP{0.4f}, c, {1, 1, 1, 1, 1}) == std::vector<int32_t>{0, 1, -1, -1, -1});
  CHECK(reference::proposals(Mass{0.4f}, c, {1, 1, 1, 1, 1}) == std::vector<int32_t>{0, 1, -1, -1, -1});
  CHECK(reference::proposals(TopP{1.0f}, c, {20, 0, 0, 0, 0}) == std::vector<int32_t>{0, 1, 2, 3, 4});
}

}  // namespace
}  // namespace choir::moe
