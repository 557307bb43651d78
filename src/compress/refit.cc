#include "compress/refit.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "compress/linear.h"

namespace choir::compress {
namespace {

struct Equations {
  std::vector<double> a, s;  // [r*r], [r]
};

// `place` [E]: which unknown an expert is.
Equations equations(const PolicyCase& c, const std::vector<size_t>& place, size_t unknowns) {
  Equations e{std::vector<double>(unknowns * unknowns), std::vector<double>(unknowns)};
  for (int t = 0; t < c.record.tokens(); ++t) {
    const Choice own = own_choice(c.record, t), b = policy_choice(c, t);
    const double weight = c.weight_of(t);
    const auto unknown = [&](size_t i) {
      return place[static_cast<size_t>(c.record.ranking(t)[static_cast<size_t>(b.rank[i])])];
    };
    for (size_t i = 0; i < b.rank.size(); ++i) {
      const double gain = weight * b.gain[i];
      for (size_t j = 0; j < own.rank.size(); ++j)
        e.s[unknown(i)] += gain * own.gain[j] * c.record.product(t, b.rank[i], own.rank[j]);
      for (size_t j = 0; j < b.rank.size(); ++j)
        e.a[unknown(i) * unknowns + unknown(j)] += gain * b.gain[j] * c.record.product(t, b.rank[i], b.rank[j]);
    }
  }
  return e;
}

double scaled_loss(const PolicyCase& c, const std::vector<double>& scale) {
  double loss = 0;
  for (int t = 0; t < c.record.tokens(); ++t) {
    Choice b = policy_choice(c, t);
    for (size_t i = 0; i < b.rank.size(); ++i)
      b.gain[i] *= scale[static_cast<size_t>(c.record.ranking(t)[static_cast<size_t>(b.rank[i])])];
    loss += c.weight_of(t) * squared_error(c.record, t, own_choice(c.record, t), b);
  }
  return loss;
}

}  // namespace

ScalarRefit refit_scales(const PolicyCase& c, double lambda) {
  if (!(lambda > 0)) base::usage_error(fmt::format("lambda is {}", lambda), "scalar refit", "it must be above 0");
  ScalarRefit refit;
  refit.before = policy_loss(c);
  refit.scale.assign(c.kept.size(), 1);
  std::vector<size_t> place(c.kept.size(), 0);
  size_t unknowns = 0;
  for (size_t e = 0; e < place.size(); ++e)
    if (c.kept[e]) place[e] = unknowns++;
  Equations e = equations(c, place, unknowns);
  double diagonal = 0;
  for (size_t i = 0; i < unknowns; ++i) diagonal += e.a[i * unknowns + i] / static_cast<double>(unknowns);
  for (size_t i = 0; i < unknowns; ++i) {
    e.a[i * unknowns + i] += lambda * diagonal;
    e.s[i] += lambda * diagonal;
  }
  const int n = static_cast<int>(unknowns);
  if (factorize(e.a, n)) {  // else nobody answered anything: nothing to scale
    solve(e.a, n, e.s);
    for (size_t i = 0; i < place.size(); ++i)
      if (c.kept[i]) refit.scale[i] = e.s[place[i]];
  }
  refit.after = scaled_loss(c, refit.scale);
  return refit;
}

Model with_scales(const Model& model, int l, std::span<const double> scale) {
  Mixture mixture(model, l);
  CHOIR_CHECK(scale.size() == mixture.tensors.w2.size(), "a scale for each expert");
  for (size_t e = 0; e < scale.size(); ++e) {
    std::vector<float> numbers = numbers_of(mixture.tensors.w2[e]);
    for (float& v : numbers) v = static_cast<float>(v * scale[e]);
    mixture.tensors.w2[e] = mixture.renewed(mixture.tensors.w2[e], numbers);
  }
  return mixture.in(model, l);
}

}  // namespace choir::compress
