#include "compress/calibration.h"

#include <doctest/doctest.h>

#include <numeric>

#include "base/error.h"

namespace choir::compress {
namespace {

TEST_CASE("a stream is cut into blocks, the rest is dropped") {
  std::vector<int32_t> stream(23);
  std::iota(stream.begin(), stream.end(), 100);
  const auto batches = cut_batches(stream, {.blocks = 5, .length = 4, .batch = 2});
  REQUIRE(batches.size() == 3);
  CHECK(batches[0].ids == std::vector<int32_t>{100, 101, 102, 103, 104, 105, 106, 107});
  CHECK(batches[2].ids == std::vector<int32_t>{116, 117, 118, 119});
  CHECK(batches[1].sequences == 2);
  CHECK(batches[2].sequences == 1);
  CHECK(batches[2].length == 4);
  const auto sequences = sequences_of(batches[1]);
  CHECK(sequences[1].row == 4);
  CHECK(sequences[1].kv_row == 4);
  CHECK(sequences[1].count == 4);
  CHECK(sequences[1].first == 0);
}

TEST_CASE("too few tokens are refused") {
  const std::vector<int32_t> stream(23);
  CHECK_THROWS_AS(cut_batches(stream, {.blocks = 6, .length = 4, .batch = 2}), base::Error);
  CHECK_THROWS_AS(cut_batches(stream, {.blocks = 0, .length = 4, .batch = 2}), base::Error);
  CHECK_THROWS_AS(check_batches({}), base::Error);
}

}  // namespace
}  // namespace choir::compress
