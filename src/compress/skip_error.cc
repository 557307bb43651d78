#include "compress/skip_error.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/top_k.h"

namespace choir::compress {
namespace {

using Gain = moe::SubsetRule::Gain;
using Over = moe::SubsetRule::Over;

// Whether a weigh word can divide by another mass: chosen, which nothing multiplies, and the norms.
bool has_other_divisors(const moe::SubsetRule& rule) {
  return rule.over == Over::kChosen && (rule.gain != Gain::kSoftmax || rule.scale == 1);
}

// All that a token may choose from.
int most_experts(const moe::SubsetRule& rule, int experts) { return experts / rule.groups * rule.kept_groups; }

std::string scale_of(const moe::SubsetRule& rule) { return rule.scale == 1 ? "" : fmt::format("scale={}", rule.scale); }

// word, or word(a, b): empty arguments are left out.
std::string word_of(const char* word, std::initializer_list<std::string> arguments) {
  std::string inside;
  for (const std::string& argument : arguments)
    if (!argument.empty()) inside += (inside.empty() ? "" : ", ") + argument;
  return inside.empty() ? word : fmt::format("{}({})", word, inside);
}

// What the token's choices compare; experts of groups that it may not choose from come last.
std::vector<float> open_keys(const LayerRecord& record, int token) {
  std::vector<float> keys(record.keys(token), record.keys(token) + record.experts);
  if (record.rule.groups == 1) return keys;
  const std::vector<uint8_t> all(keys.size(), 1), open = open_groups(record, token, all);
  const size_t size = keys.size() / open.size();
  for (size_t e = 0; e < keys.size(); ++e)
    if (!open[e / size]) keys[e] = -HUGE_VALF;
  return keys;
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
  if (!has_other_divisors(rule)) return rules;
  rules.push_back({GainRule::Over::kKept});
  const int most = most_experts(rule, experts);
  const auto add = [&](int best) {
    if (best != choices && best <= most) rules.push_back({GainRule::Over::kBest, best});
  };
  for (int best = 2; best <= 2 * choices; ++best) add(best);
  for (const int wide : {3, 4, 8}) add(wide * choices);
  return rules;
}

std::string weigh_word(const moe::SubsetRule& rule, const GainRule& gain) {
  const bool own = gain.over == GainRule::Over::kOwn;
  if (own && rule.over == Over::kNothing) return word_of("sigmoid", {scale_of(rule)});
  if (own && rule.gain == Gain::kSoftmax)
    return word_of("softmax", {rule.over == Over::kChosen ? "renorm" : "", scale_of(rule)});
  const std::string best = gain.over == GainRule::Over::kBest ? fmt::format("over={}", gain.best) : "";
  const bool kept = gain.over == GainRule::Over::kKept;
  if (rule.gain != Gain::kSoftmax)
    return word_of(rule.gain == Gain::kSigmoid ? "sigmoid_norm" : "sqrt_softplus_norm",
                   {scale_of(rule), kept ? "kept" : best});
  return word_of("chosen", {best});
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
  kernels::top_k(open_keys(record, token), first);
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
