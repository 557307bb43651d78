#include "compress/coverage.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "compress/observe.h"
#include "compress/test_model.h"

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

// The least tokens of any expert on the first sequences, by what is observed of them.
int64_t least_seen(const Model& model, const std::vector<CalibrationBatch>& batches, int64_t sequences,
                   base::Threads& threads) {
  std::vector<CalibrationBatch> first;
  for (const CalibrationBatch& batch : batches) {
    const auto rows = static_cast<int>(std::min<int64_t>(batch.sequences, sequences));
    sequences -= rows;
    if (rows > 0) first.push_back({{batch.ids.begin(), batch.ids.begin() + rows * batch.length}, rows, batch.length});
  }
  int64_t least = INT64_MAX;
  observe(
      model, first, {}, [&](int, const LayerRecord& r) { least = std::min(least, std::ranges::min(r.coverage)); },
      threads);
  return least;
}

TEST_CASE("coverage: text stops at the first sequence that gives every expert of every layer enough") {
  const TestModel made(small_config(6, 2, 3));
  const auto batches = random_batches(4, 3, 10, 31);
  base::Threads threads(2);
  for (const int64_t least : {1, 4, 9, 20}) {
    CAPTURE(least);
    const EnoughText found = enough_text(*made.model, batches, least, threads);
    REQUIRE(found.sequences > 1);
    CHECK(found.reached == (least_seen(*made.model, batches, found.sequences, threads) >= least));
    CHECK(least_seen(*made.model, batches, found.sequences - 1, threads) < least);
    if (!found.reached) CHECK(found.sequences == 12);
  }
  CHECK(enough_text(*made.model, batches, 4, threads).reached);
  CHECK(!enough_text(*made.model, batches, 1000, threads).reached);
}

}  // namespace
}  // namespace choir::compress
