#include "compress/knee.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

namespace choir::compress {
namespace {

using List = std::vector<double>;

TEST_CASE("knee: the corner of two lines, wherever the points stand") {
  CHECK(knee(List{0, 1, 2, 3, 4}, List{10, 5, 0, 0, 0}) == 2);
  CHECK(knee(List{100, 120, 200, 400}, List{9, 1, 0.5, 0}) == 1);
  CHECK(knee(List{0, 0.9, 1}, List{1, 0.2, 0}) == std::nullopt);  // above the chord, which is 0.1 there
}

TEST_CASE("knee: of 1 / x it is where the slope is that of the chord") {
  List x, y;
  for (int i = 0; i <= 1000; ++i) {
    x.push_back(1 + 0.015 * i);  // 1 .. 16
    y.push_back(1 / x.back());
  }
  const auto bend = knee(x, y);
  REQUIRE(bend);
  CHECK(x[*bend] == doctest::Approx(4).epsilon(0.005));  // -1/x^2 = (1/16 - 1) / 15
}

TEST_CASE("knee: of equally far points the last; none on a line, on a rise or of two points") {
  CHECK(knee(List{0, 1, 2, 3, 4}, List{4, 2, 1, 0, 0}) == 3);  // 1 below the chord at 1, 2 and 3
  CHECK(!knee(List{0, 1, 2}, List{2, 1, 0}));
  CHECK(!knee(List{0, 1, 2}, List{0, 0, 1}));
  CHECK(!knee(List{0, 1}, List{1, 0}));
  CHECK(!knee(List{0, 1, 2}, List{NAN, 0, 0}));
}

}  // namespace
}  // namespace choir::compress
