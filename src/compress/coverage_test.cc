#include "compress/coverage.h"

#include <doctest/doctest.h>

namespace choir::compress {
namespace {

TEST_CASE("coverage: the rarest experts come first, and enough is when there are none") {
  const CoverageTable table{{{5, 0, 9}, {2, 7, 0}}};
  CHECK(rarely_seen(table, 6) == std::vector<RareExpert>{{0, 1, 0}, {1, 2, 0}, {1, 0, 2}, {0, 0, 5}});
  CHECK(rarely_seen(table, 1) == std::vector<RareExpert>{{0, 1, 0}, {1, 2, 0}});
  CHECK(rarely_seen(table, 0).empty());
  CHECK(enough(table, 0));
  CHECK(!enough(table, 1));
  CHECK(enough({{{3, 4}, {5}}}, 3));
  CHECK(!enough({{{3, 4}, {5}}}, 4));
  CHECK(!enough({}, 0));
}

}  // namespace
}  // namespace choir::compress
