#include "kernels/rope_frequencies.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "base/error.h"

namespace choir::kernels {
namespace {

constexpr double kTurn = 2 * std::numbers::pi;

double ramp(double x, double low, double high) { return std::clamp((x - low) / (high - low), 0.0, 1.0); }

// arXiv 2309.00071, section 3.2: pair i turns original_length * inverse_i / (2 pi) times over the original length.
// Those up to the pair that turns beta_fast times keep their speed, those from the one that turns beta_slow times on
// are slowed down by the factor, with a ramp over i in between. Solved for i: R ln(length / (2 pi turns)) / (2 ln
// theta).
void stretch_yarn(const RopeSpec& spec, int width, RopeFrequencies& f) {
  const auto pair_of = [&](double turns) {
    return width * std::log(spec.original_length / (turns * kTurn)) / (2 * std::log(spec.theta));
  };
  double low = pair_of(spec.beta_fast), high = pair_of(spec.beta_slow);
  if (spec.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, width - 1.0);
  if (low == high) high += 0.001;
  double i = 0;
  for (double& inverse : f.inverse) {
    const double slow = ramp(i++, low, high);
    inverse = inverse / spec.factor * slow + inverse * (1 - slow);
  }
  if (spec.attention_factor != 0)
    f.factor = spec.attention_factor;
  else if (spec.mscale != 0 && spec.mscale_all_dim != 0)
    f.factor = yarn_growth(spec.factor, spec.mscale) / yarn_growth(spec.factor, spec.mscale_all_dim);
  else
    f.factor = yarn_growth(spec.factor, 1);
}

// arXiv 2402.13753: a factor of its own for each pair, one list up to the original length and one above it.
void stretch_longrope(const RopeSpec& spec, int length, RopeFrequencies& f) {
  const bool longer = length > spec.original_length;
  const std::vector<double>& factors = longer ? spec.long_factor : spec.short_factor;
  CHOIR_CHECK(factors.size() == f.inverse.size(),
              std::to_string(factors.size()) + " factors for " + std::to_string(f.inverse.size()) + " pairs");
  for (size_t i = 0; i < factors.size(); ++i) f.inverse[i] /= factors[i];
  if (const double mscale = longer ? spec.long_mscale : spec.short_mscale; mscale != 0)
    f.factor = mscale;
  else if (spec.attention_factor != 0)
    f.factor = spec.attention_factor;
  else if (spec.factor > 1)
    f.factor = std::sqrt(1 + std::log(spec.factor) / std::log(spec.original_length));
}

// Llama 3.1: as yarn, but the ramp runs over the number of turns instead of over i.
void stretch_llama3(const RopeSpec& spec, RopeFrequencies& f) {
  for (double& inverse : f.inverse) {
    const double fast = ramp(spec.original_length * inverse / kTurn, spec.low_freq_factor, spec.high_freq_factor);
    inverse = inverse / spec.factor * (1 - fast) + inverse * fast;
  }
}

}  // namespace

double yarn_growth(double factor, double m) { return factor > 1 ? 0.1 * m * std::log(factor) + 1 : 1; }

RopeFrequencies rope_frequencies(const RopeSpec& spec, int width, int length) {
  CHOIR_CHECK(width > 0 && width % 2 == 0, "width " + std::to_string(width));
  RopeFrequencies f;
  for (int i = 0; i < width / 2; ++i) f.inverse.push_back(std::pow(spec.theta, -2.0 * i / width));
  switch (spec.kind) {
    case RopeSpec::Kind::kNone: break;
    case RopeSpec::Kind::kLinear:
      for (double& inverse : f.inverse) inverse /= spec.factor;
      break;
    case RopeSpec::Kind::kYarn: stretch_yarn(spec, width, f); break;
    case RopeSpec::Kind::kLongrope: stretch_longrope(spec, length, f); break;
    case RopeSpec::Kind::kLlama3: stretch_llama3(spec, f); break;
  }
  return f;
}

}  // namespace choir::kernels
