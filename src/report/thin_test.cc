#include "report/thin.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

namespace choir::report {
namespace {

TEST_CASE("thin: a short curve stays as it is") {
  const Curve curve = thin({1, 2, 3}, {5, NAN, 4}, 3);
  CHECK(curve.step == Column{1, 2, 3});
  CHECK(curve.mean[2] == 4);
  CHECK(curve.low.empty());
  CHECK(thin({}, {}, 3).step.empty());
}

TEST_CASE("thin: buckets keep the least, the greatest and the mean") {
  const Curve curve = thin({1, 2, 3, 4, 5, 6}, {5, 1, 3, 8, NAN, 2}, 2);
  CHECK(curve.step == Column{2, 5});
  CHECK(curve.low == Column{1, 2});
  CHECK(curve.high == Column{5, 8});
  CHECK(curve.mean == Column{3, 5});
}

TEST_CASE("thin: no peak is lost, whatever the length") {
  for (const size_t n : {7u, 100u, 1001u, 6000u}) {
    Column step, values;
    for (size_t i = 0; i < n; ++i) {
      step.push_back(static_cast<double>(i));
      values.push_back(std::sin(static_cast<double>(i * i)));
    }
    const Curve curve = thin(step, values, 6);
    CHECK(curve.step.size() == 6);
    CHECK(std::is_sorted(curve.step.begin(), curve.step.end()));
    CHECK(*std::min_element(curve.low.begin(), curve.low.end()) == *std::min_element(values.begin(), values.end()));
    CHECK(*std::max_element(curve.high.begin(), curve.high.end()) == *std::max_element(values.begin(), values.end()));
  }
}

TEST_CASE("thin: a bucket without a number is a gap") {
  const Curve curve = thin({1, 2, 3, 4}, {1, 2, NAN, NAN}, 2);
  CHECK(curve.mean[0] == 1.5);
  CHECK(std::isnan(curve.mean[1]));
  CHECK(std::isnan(curve.high[1]));
}

TEST_CASE("spread: evenly, with the first and the last") {
  CHECK(spread(0, 5).empty());
  CHECK(spread(3, 5) == std::vector<size_t>{0, 1, 2});
  CHECK(spread(9, 3) == std::vector<size_t>{0, 4, 8});
  CHECK(spread(9, 0) == std::vector<size_t>{8});
  CHECK(spread(1, 1) == std::vector<size_t>{0});
}

TEST_CASE("median and mean look at finite numbers") {
  CHECK(median({3, NAN, 1, 2}) == 2);
  CHECK(std::isnan(median({})));
  CHECK(mean({1, NAN, 3}) == 2);
  CHECK(std::isnan(mean({NAN})));
}

}  // namespace
}  // namespace choir::report
