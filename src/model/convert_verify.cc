#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "model/convert.h"
#include "model/layerwise.h"

namespace choir::model {
namespace {

// Sums in another order: heads whose rows lie otherwise add up otherwise. Relative to the largest logit.
constexpr double kMostFault = 1e-3;

std::vector<float> answers(Source& source, std::span<const int32_t> ids, const Rounding& rounding,
                           base::Threads& threads) {
  const int rows = static_cast<int>(ids.size()), cols = source.config().vocab;
  std::vector<float> logits(ids.size() * static_cast<size_t>(cols));
  layerwise_forward(source, ids, rounding, {logits.data(), rows, cols}, threads);
  return logits;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    most = std::isnan(d) ? HUGE_VAL : std::max(most, d);
  }
  return most;
}

double agreement(const std::vector<float>& a, const std::vector<float>& b, size_t rows) {
  const auto cols = static_cast<std::ptrdiff_t>(a.size() / rows);
  double same = 0;
  for (size_t r = 0; r < rows; ++r) {
    const auto best = [&](const std::vector<float>& logits) {
      const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(r) * cols;
      return std::max_element(begin, begin + cols) - begin;
    };
    same += best(a) == best(b);
  }
  return same / static_cast<double>(rows);
}

}  // namespace

Verified verify(Source& source, const std::string& result, const Converted& done, base::Threads& threads) {
  const std::vector<int32_t> ids = probe_ids(source.config());
  const Rounding rounding = [&](const TensorInfo& info) {
    const auto found = done.types.find(info.name);
    return found == done.types.end() ? std::nullopt : std::optional(found->second);
  };
  Source written(result);
  const std::vector<float> before = answers(source, ids, {}, threads),
                           rounded = answers(source, ids, rounding, threads),
                           after = answers(written, ids, {}, threads);
  Verified verified{.ids = static_cast<int>(ids.size())};
  for (const float x : rounded) verified.largest = std::max(verified.largest, std::abs(static_cast<double>(x)));
  verified.fault = distance(rounded, after);
  verified.drift = distance(before, after);
  verified.agreement = agreement(before, after, ids.size());
  CHOIR_CHECK(verified.fault <= kMostFault * std::max(1.0, verified.largest),
              fmt::format("what was written answers otherwise than it should: a logit is {} off", verified.fault));
  return verified;
}

}  // namespace choir::model
