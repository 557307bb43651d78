#include "report/thin.h"

#include <algorithm>
#include <cmath>

namespace choir::report {
namespace {

void add_bucket(Curve& curve, const Column& values, size_t begin, size_t end) {
  double low = NAN, high = NAN, sum = 0, count = 0;
  for (size_t i = begin; i < end; ++i) {
    if (!std::isfinite(values[i])) continue;
    low = std::fmin(low, values[i]);
    high = std::fmax(high, values[i]);
    sum += values[i];
    ++count;
  }
  curve.low.push_back(low);
  curve.high.push_back(high);
  curve.mean.push_back(count > 0 ? sum / count : NAN);
}

}  // namespace

Curve thin(const Column& step, const Column& values, size_t buckets) {
  Curve curve;
  const size_t n = values.size();
  if (n <= buckets) {
    curve.step = step;
    curve.mean = values;
    return curve;
  }
  for (size_t b = 0; b < buckets; ++b) {
    const size_t begin = b * n / buckets, end = (b + 1) * n / buckets;
    curve.step.push_back(step[(begin + end - 1) / 2]);
    add_bucket(curve, values, begin, end);
  }
  return curve;
}

std::vector<size_t> spread(size_t count, size_t most) {
  std::vector<size_t> chosen;
  most = std::max<size_t>(most, 1);
  if (count > 1 && most == 1) return {count - 1};
  const size_t taken = std::min(count, most);
  for (size_t i = 0; i < taken; ++i) chosen.push_back(taken == 1 ? 0 : i * (count - 1) / (taken - 1));
  return chosen;
}

double median(Column values) {
  std::erase_if(values, [](double v) { return !std::isfinite(v); });
  if (values.empty()) return NAN;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double mean(const Column& values) {
  double sum = 0, count = 0;
  for (const double v : values)
    if (std::isfinite(v)) sum += v, ++count;
  return count > 0 ? sum / count : NAN;
}

}  // namespace choir::report
