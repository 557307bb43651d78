#include "base/threads.h"

#include <doctest/doctest.h>

#include <atomic>
#include <stdexcept>
#include <vector>

namespace choir::base {
namespace {

TEST_CASE("threads: every iteration runs once, for pools and loops of any size") {
  for (const int count : {1, 2, 5}) {
    Threads pool(count);
    CHECK(pool.count() == count);
    for (const int iterations : {0, 1, 2, 4, 5, 6, 1000}) {
      std::vector<std::atomic<int>> ran(static_cast<size_t>(iterations));
      pool.for_each(iterations, [&](int i) { ++ran[static_cast<size_t>(i)]; });
      for (const auto& r : ran) CHECK(r == 1);
    }
  }
}

TEST_CASE("threads: zero means one for each processor") { CHECK(Threads(0).count() >= 1); }

TEST_CASE("threads: what a loop wrote is seen after it, through many short loops") {
  for (const int count : {2, 5}) {
    Threads pool(count);
    std::vector<int> value(7);
    for (int round = 0; round < 5000; ++round)
      pool.for_each(7, [&](int i) { value[static_cast<size_t>(i)] += 1 + value[static_cast<size_t>(i)] % 2; });
    int expected = 0;
    for (int round = 0; round < 5000; ++round) expected += 1 + expected % 2;
    for (const int v : value) CHECK(v == expected);
  }
}

TEST_CASE("threads: an exception arrives at the caller, stops the hand-out, and the pool lives on") {
  for (const int count : {1, 2, 5}) {
    Threads pool(count);
    for (int round = 0; round < 50; ++round) {
      std::atomic<int> ran{0};
      CHECK_THROWS_WITH_AS(pool.for_each(100000,
                                         [&](int i) {
                                           if (i == 3) throw std::runtime_error("three");
                                           ++ran;
                                         }),
                           "three", std::runtime_error);
      CHECK(ran < 100000);
      std::atomic<int> after{0};
      pool.for_each(10, [&](int) { ++after; });
      CHECK(after == 10);
    }
  }
}

TEST_CASE("threads: pools of different sizes work side by side") {
  Threads outer(3);
  std::atomic<int> total{0};
  outer.for_each(6, [&](int) {
    Threads inner(2);
    inner.for_each(10, [&](int) { ++total; });
  });
  CHECK(total == 60);
}

}  // namespace
}  // namespace choir::base
