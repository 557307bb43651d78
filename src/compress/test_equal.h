// For tests: two records that must say the same.
#pragma once

#include <doctest/doctest.h>

#include <cmath>

#include "compress/record.h"

namespace choir::compress {

inline void check_close(const std::vector<double>& a, const std::vector<double>& b, double tolerance) {
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) CHECK(std::abs(a[i] - b[i]) <= tolerance * (1 + std::abs(b[i])));
}

// Bit for bit, but for means that were made in another order.
inline void check_equal(const LayerRecord& a, const LayerRecord& b, double means = 0, double gained_means = 0) {
  CHECK(a.experts == b.experts);
  CHECK(a.ranks == b.ranks);
  CHECK(a.width == b.width);
  CHECK(a.rule.k == b.rule.k);
  CHECK(a.rule.groups == b.rule.groups);
  CHECK(a.rule.over == b.rule.over);
  CHECK(a.rule.scale == b.rule.scale);
  CHECK(a.key == b.key);
  CHECK(a.p == b.p);
  CHECK(a.order == b.order);
  CHECK(a.gram == b.gram);
  CHECK(a.residual == b.residual);
  CHECK(a.turned == b.turned);
  CHECK(a.batch == b.batch);
  CHECK(a.coverage == b.coverage);
  check_close(a.mean, b.mean, means);
  check_close(a.gained_mean, b.gained_mean, gained_means);
}

}  // namespace choir::compress
