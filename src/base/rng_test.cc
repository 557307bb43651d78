#include "base/rng.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

namespace choir::base {
namespace {

// Worked by hand: from the state {1, 2, 3, 4} the first word is rotl(2 * 5, 7) * 9 = 11520, and s[1] becomes
// 2 ^ (3 ^ 1) = 0, so the second is 0.
TEST_CASE("rng: the first words of xoshiro256**") {
  Rng rng(Rng::State{1, 2, 3, 4});
  CHECK(rng.next() == 11520u);
  CHECK(rng.next() == 0u);
  CHECK(rng.next() == 1509978240u);
}

TEST_CASE("rng: the seed goes through splitmix64") {
  CHECK(Rng(0).state()[0] == 0xe220a8397b1dcdafu);  // its published first output for seed 0
  CHECK(Rng(0).state()[1] == 0x6e789e6aa1b965f4u);
}

TEST_CASE("rng: a saved state continues the same stream") {
  Rng rng(7);
  for (int i = 0; i < 10; ++i) rng.normal();
  Rng copy(rng.state());
  for (int i = 0; i < 100; ++i) CHECK(copy.next() == rng.next());
}

TEST_CASE("rng: below is in range and even") {
  Rng rng(1);
  std::vector<int> count(7);
  for (int i = 0; i < 70000; ++i) ++count.at(rng.below(7));
  for (const int c : count) CHECK(std::abs(c - 10000) < 500);  // five deviations
  CHECK(rng.below(1) == 0);
}

TEST_CASE("rng: uniform and normal have their moments") {
  Rng rng(2);
  const int n = 100000;
  double uniform = 0, mean = 0, square = 0, fourth = 0;
  for (int i = 0; i < n; ++i) {
    const double u = rng.uniform(), z = static_cast<double>(rng.normal());
    CHECK((u >= 0 && u < 1));
    uniform += u / n;
    mean += z / n;
    square += z * z / n;
    fourth += z * z * z * z / n;
  }
  CHECK(std::abs(uniform - 0.5) < 0.005);
  CHECK(std::abs(mean) < 0.015);
  CHECK(std::abs(square - 1) < 0.025);
  CHECK(std::abs(fourth - 3) < 0.2);
}

}  // namespace
}  // namespace choir::base
