#include "moe/propose/positive.h"

#include "moe/reference/selection.h"
#include "moe/reference/words.h"

namespace choir::moe {
namespace {

TEST_CASE("positive: text") { reference::check_text<Positive>({"positive"}, {"positive(2)"}); }

TEST_CASE("positive: all experts with a positive score, best first") {
  constexpr int kTokens = 150, kExperts = 7;
  for (const double scale : {1e-4, 1.0, 100.0}) {
    reference::Case c(kTokens, 1, kExperts);
    const auto z = reference::with_ties(reference::random(kTokens * kExperts, scale, 5));
    CHECK(reference::proposals(Positive{}, c, reference::narrow(z)) == reference::positive(z, kExperts));
  }
}

TEST_CASE("positive: zero, NaN and masked scores are not positive") {
  reference::Case c(2, 1, 4);
  CHECK(reference::proposals(Positive{}, c, {0, -0.0f, NAN, -HUGE_VALF, 1, 1, 2, NAN}) ==
        std::vector<int32_t>{-1, -1, -1, -1, 2, 0, 1, -1});
}

}  // namespace
}  // namespace choir::moe
