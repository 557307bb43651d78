#include "compress/record.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace choir::compress {
namespace {

using Over = moe::SubsetRule::Over;
constexpr float kNever = -std::numeric_limits<float>::infinity();

// What a group is worth among the kept: its best key, or the sum of its two best.
float worth(std::span<const float> key, std::span<const uint8_t> kept, bool top_two) {
  float first = kNever, second = kNever;
  for (size_t i = 0; i < key.size(); ++i) {
    if (!kept[i]) continue;
    second = std::max(second, std::min(first, key[i]));
    first = std::max(first, key[i]);
  }
  return top_two && std::isfinite(second) ? first + second : first;
}

}  // namespace

// Of equal groups the lower one comes first.
std::vector<uint8_t> open_groups(const LayerRecord& record, int token, std::span<const uint8_t> kept) {
  const moe::SubsetRule& rule = record.rule;
  const size_t size = static_cast<size_t>(record.experts / rule.groups), groups = static_cast<size_t>(rule.groups);
  const std::span<const float> key(record.keys(token), static_cast<size_t>(record.experts));
  std::vector<float> value(groups);
  for (size_t g = 0; g < groups; ++g)
    value[g] = worth(key.subspan(g * size, size), kept.subspan(g * size, size), rule.by_top_two);
  std::vector<uint8_t> open(groups, 0);
  for (int i = 0; i < rule.kept_groups; ++i) {
    size_t best = groups;
    for (size_t g = 0; g < groups; ++g)
      if (!open[g] && (best == groups || value[g] > value[best])) best = g;
    open[best] = 1;
  }
  return open;
}

// The column above the diagonal, whose entries come nearer with each row, then the row.
void LayerRecord::add_products(int t, int i, double factor, std::span<double> sum) const {
  const float* at = gram.data() + static_cast<size_t>(t) * triangle() + i;
  for (int r = 0; r < i; at += ranks - ++r) sum[r] += factor * *at;
  for (int r = i; r < ranks; ++r) sum[r] += factor * at[r - i];
}

size_t chosen_ranks(const LayerRecord& record, int token, std::span<const uint8_t> kept, std::span<int> rank) {
  const bool grouped = record.rule.groups > 1;
  const auto size = static_cast<size_t>(record.experts / record.rule.groups), k = static_cast<size_t>(record.rule.k);
  std::vector<uint8_t> open;
  if (grouped) open = open_groups(record, token, kept);
  const std::span<const int32_t> ranking = record.ranking(token);
  size_t count = 0;
  for (size_t r = 0; r < ranking.size() && count < k; ++r) {
    const auto e = static_cast<size_t>(ranking[r]);
    if (kept[e] && (!grouped || open[e / size])) rank[count++] = static_cast<int>(r);
  }
  return count;
}

double divisor(const LayerRecord& record, int token, std::span<const uint8_t> kept, std::span<const int> rank) {
  const float* p = record.gains(token);
  double sum = 0;
  if (record.rule.over == Over::kNothing) return 1;
  if (record.rule.over == Over::kChosen)
    for (const int r : rank) sum += p[record.ranking(token)[static_cast<size_t>(r)]];
  else
    for (size_t e = 0; e < kept.size(); ++e) sum += kept[e] ? p[e] : 0;
  return sum;
}

Choice choose(const LayerRecord& record, int token, std::span<const uint8_t> kept) {
  const auto k = static_cast<size_t>(record.rule.k);
  Choice choice;
  choice.rank.resize(k);
  choice.rank.resize(chosen_ranks(record, token, kept, choice.rank));
  choice.short_of = choice.rank.size() < k && record.ranks < record.experts;
  const double scale = record.rule.scale / divisor(record, token, kept, choice.rank);
  for (const int r : choice.rank)
    choice.gain.push_back(scale * record.gains(token)[record.ranking(token)[static_cast<size_t>(r)]]);
  return choice;
}

Choice own_choice(const LayerRecord& record, int token) {
  return choose(record, token, std::vector<uint8_t>(static_cast<size_t>(record.experts), 1));
}

double squared_error(const LayerRecord& record, int token, const Choice& own, const Choice& other) {
  std::vector<int> rank = own.rank;
  std::vector<double> change = own.gain;
  for (size_t i = 0; i < other.rank.size(); ++i) {
    const auto same = std::ranges::find(rank, other.rank[i]);
    const auto place = static_cast<size_t>(same - rank.begin());
    if (same == rank.end()) {
      rank.push_back(other.rank[i]);
      change.push_back(0);
    }
    change[place] -= other.gain[i];
  }
  double sum = 0;
  for (size_t i = 0; i < rank.size(); ++i)
    for (size_t j = 0; j < rank.size(); ++j) sum += change[i] * change[j] * record.product(token, rank[i], rank[j]);
  return std::max(sum, 0.0);
}

}  // namespace choir::compress
