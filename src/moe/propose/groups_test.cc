#include "moe/propose/groups.h"

#include "moe/reference/selection.h"
#include "moe/reference/words.h"

namespace choir::moe {
namespace {

TEST_CASE("groups: texts, ranges and what fits") {
  reference::check_text<Groups>({"groups(8, 4, 8, by=top2)", "groups(2, 1, 1)"},
                                {"groups", "groups(2)", "groups(2,3,1)", "groups(0,1,1)", "groups(2,1,1,by=sum)"});
  const Groups word{4, 2, 3};
  CHECK(word.misfit(8, 64).empty());
  CHECK(!word.misfit(10, 64).empty());
  CHECK(!word.misfit(4, 64).empty());
}

TEST_CASE("groups: the reference's choice, ties to the lower group and expert") {
  constexpr int kTokens = 120, kExperts = 12;
  for (const double scale : {1e-3, 1.0, 30.0})
    for (const auto& [groups, keep, k] :
         {std::array{4, 2, 3}, std::array{12, 3, 2}, std::array{1, 1, 5}, std::array{3, 3, 12}})
      for (const bool top_two : {false, true}) {
        CAPTURE(scale);
        CAPTURE(groups);
        CAPTURE(top_two);
        reference::Case c(kTokens, 1, kExperts);
        const auto z = reference::with_ties(reference::random(kTokens * kExperts, scale, 7));
        const reference::Groups plain{kExperts, static_cast<size_t>(groups), static_cast<size_t>(keep), top_two};
        CHECK(reference::proposals(Groups{groups, keep, k, top_two}, c, reference::narrow(z)) ==
              reference::group_top_k(z, plain, static_cast<size_t>(k)));
      }
}

TEST_CASE("groups: removed groups are out however low the kept scores, and masked experts are never chosen") {
  reference::Case c(1, 1, 4);
  CHECK(reference::proposals(Groups{2, 1, 2, true}, c, {-1, -2, -1, -3}) == std::vector<int32_t>{0, 1});
  CHECK(reference::proposals(Groups{2, 1, 2, false}, c, {5, -HUGE_VALF, 1, 1}) == std::vector<int32_t>{0, -1});
  CHECK(reference::proposals(Groups{2, 1, 2, true}, c, {5, -HUGE_VALF, 1, 1}) == std::vector<int32_t>{2, 3});
}

}  // namespace
}  // namespace choir::moe
