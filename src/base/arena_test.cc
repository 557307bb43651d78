#include "base/arena.h"

#include <doctest/doctest.h>

#include <numeric>

#include "base/threads.h"

namespace choir::base {
namespace {

TEST_CASE("frame: lists are their own, aligned and filled") {
  Threads threads(1);
  const Frame nothing(threads);
  Frame frame(threads);
  const auto numbers = frame.list<int>(100);
  const auto sevens = frame.list<char>(3, 7), none = frame.list<char>(0);
  CHECK(none.empty());
  for (const int n : numbers) CHECK(n == 0);
  CHECK(std::string(sevens.begin(), sevens.end()) == "\7\7\7");
  CHECK(reinterpret_cast<uintptr_t>(numbers.data()) % 64 == 0);
  CHECK(reinterpret_cast<uintptr_t>(sevens.data()) % 64 == 0);
  std::iota(numbers.begin(), numbers.end(), 1);
  const auto copy = frame.list(std::span<const int>(numbers));
  numbers[99] = 0;
  CHECK(copy[0] == 1);
  CHECK(copy[99] == 100);
  CHECK(sevens[2] == 7);
}

// Larger and larger, so that blocks are added while lists of the frames below are in use.
TEST_CASE("frame: inner frames leave the lists of outer ones as they are") {
  Threads threads(1);
  for (int round = 0; round < 3; ++round) {
    Frame outer(threads);
    std::vector<std::span<int>> lists;
    for (int size = 10; size < 20000; size *= 7) {
      lists.push_back(outer.list<int>(static_cast<size_t>(size), size));
      Frame inner(threads);
      for (int i = 0; i < 4; ++i) std::ranges::fill(inner.list<int>(static_cast<size_t>(3 * size)), -1);
    }
    for (const std::span<int> list : lists)
      for (const int n : list) CHECK(n == static_cast<int>(list.size()));
  }
}

TEST_CASE("frame: calls that take as much get the same memory") {
  Threads threads(1);
  const int* before = nullptr;
  for (int round = 0; round < 4; ++round) {
    Frame frame(threads);
    const int* first = frame.list<int>(1000).data();
    const int* second = frame.list<int>(5000).data();
    CHECK(second != first);
    if (round > 1) CHECK(first == before);
    before = first;
  }
}

}  // namespace
}  // namespace choir::base
