#include "compress/skip_error.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "kernels/top_k.h"

namespace choir::compress {
namespace {

using Gain = moe::SubsetRule::Gain;
using Over = moe::SubsetRule::Over;

// Written as chosen: a softmax over the chosen, not multiplied by anything.
bool is_plain(const moe::SubsetRule& rule) {
  return rule.gain == Gain::kSoftmax && rule.over == Over::kChosen && rule.scale == 1;
}

std::string scaled(const char* word, const char* flag, float scale) {
  const std::string factor = scale == 1 ? "" : fmt::format("scale={}", scale);
  const std::string inside = flag + std::string(*flag && !factor.empty() ? ", " : "") + factor;
  return inside.empty() ? word : fmt::format("{}({})", word, inside);
}

double divisor_of(const LayerRecord& record, int token, const SkipPrefix& prefix) {
  if (record.rule.over == Over::kNothing) return 1;
  if (record.rule.over == Over::kChosen) return prefix.mass.back();
  const float* p = record.gains(token);
  return std::accumulate(p, p + record.experts, 0.0);
}

}  // namespace

std::vector<GainRule> gain_rules(const moe::SubsetRule& rule, int choices, int experts) {
  std::vector<GainRule> rules{{}};
  if (!is_plain(rule)) return rules;
  rules.push_back({GainRule::Over::kKept});
  if (rule.groups > 1) return rules;  // experts beyond the token's groups are no part of a mass
  for (int best = 2; best <= std::min(experts, 2 * choices); ++best)
    if (best != choices) rules.push_back({GainRule::Over::kBest, best});
  return rules;
}

std::string weigh_word(const moe::SubsetRule& rule, const GainRule& gain) {
  if (gain.over == GainRule::Over::kKept) return "chosen";
  if (gain.over == GainRule::Over::kBest) return fmt::format("chosen(over={})", gain.best);
  if (rule.gain == Gain::kSoftmax) return scaled("softmax", rule.over == Over::kChosen ? "renorm" : "", rule.scale);
  return rule.over == Over::kNothing ? "sigmoid" : scaled("sigmoid_norm", "", rule.scale);
}

SkipPrefix skip_prefix(const LayerRecord& record, int token, int best) {
  SkipPrefix prefix;
  const Choice own = own_choice(record, token);
  std::vector<size_t> order(own.rank.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto p = [&](size_t i) { return record.gains(token)[record.ranking(token)[static_cast<size_t>(own.rank[i])]]; };
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return p(a) > p(b); });
  double mass = 0, alpha = 0, square = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const int rank = own.rank[order[i]];
    const double w = p(order[i]);
    double with_answer = 0, with_kept = 0;
    for (size_t j = 0; j < own.rank.size(); ++j) with_answer += own.gain[j] * record.product(token, rank, own.rank[j]);
    for (size_t j = 0; j < i; ++j) with_kept += p(order[j]) * record.product(token, rank, own.rank[order[j]]);
    prefix.weight.push_back(p(order[i]));
    prefix.mass.push_back(mass += w);
    prefix.alpha.push_back(alpha += w * with_answer);
    prefix.square.push_back(square += w * (w * record.product(token, rank, rank) + 2 * with_kept));
    prefix.answer += own.gain[order[i]] * with_answer;
  }
  prefix.own = divisor_of(record, token, prefix);
  std::vector<int32_t> first(static_cast<size_t>(best));
  kernels::top_k({record.keys(token), static_cast<size_t>(record.experts)}, first);
  double sum = 0;
  for (const int32_t e : first) prefix.best.push_back(sum += record.gains(token)[e]);
  return prefix;
}

// docs/compress.md, C40.
double skip_error(const moe::SubsetRule& rule, const SkipPrefix& prefix, int kept, const GainRule& gain) {
  const auto i = static_cast<size_t>(kept) - 1;
  double divisor = prefix.own;
  if (gain.over == GainRule::Over::kKept) divisor = prefix.mass[i];
  if (gain.over == GainRule::Over::kBest) divisor = prefix.best[static_cast<size_t>(gain.best) - 1];
  const double factor = rule.scale / divisor;
  return std::max(prefix.answer - 2 * factor * prefix.alpha[i] + factor * factor * prefix.square[i], 0.0);
}

}  // namespace choir::compress
