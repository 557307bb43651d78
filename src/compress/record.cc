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

// Marks the experts of the groups that a token may choose from. Of equal groups the lower one stays.
std::vector<uint8_t> within_groups(const LayerRecord& record, int token, std::span<const uint8_t> kept) {
  const moe::SubsetRule& rule = record.rule;
  const size_t size = static_cast<size_t>(record.experts / rule.groups);
  const std::span<const float> key(record.keys(token), static_cast<size_t>(record.experts));
  std::vector<std::pair<float, int>> groups;
  for (int g = 0; g < rule.groups; ++g) {
    const size_t first = static_cast<size_t>(g) * size;
    groups.emplace_back(-worth(key.subspan(first, size), kept.subspan(first, size), rule.by_top_two), g);
  }
  std::ranges::sort(groups);
  std::vector<uint8_t> may(kept.size(), 0);
  for (int i = 0; i < rule.kept_groups; ++i) {
    const size_t first = static_cast<size_t>(groups[static_cast<size_t>(i)].second) * size;
    std::ranges::copy(kept.subspan(first, size), may.begin() + static_cast<std::ptrdiff_t>(first));
  }
  return may;
}

double divisor(const LayerRecord& record, int token, std::span<const uint8_t> kept, const std::vector<double>& p) {
  double sum = 0;
  if (record.rule.over == Over::kNothing) return 1;
  if (record.rule.over == Over::kChosen)
    for (const double v : p) sum += v;
  else
    for (int e = 0; e < record.experts; ++e) sum += kept[static_cast<size_t>(e)] ? record.gains(token)[e] : 0;
  return sum;
}

}  // namespace

Choice choose(const LayerRecord& record, int token, std::span<const uint8_t> kept) {
  std::vector<uint8_t> limited;
  std::span<const uint8_t> may = kept;
  if (record.rule.groups > 1) may = limited = within_groups(record, token, kept);
  Choice choice;
  const std::span<const int32_t> ranking = record.ranking(token);
  const auto k = static_cast<size_t>(record.rule.k);
  for (int r = 0; r < record.ranks && choice.rank.size() < k; ++r) {
    const auto e = static_cast<size_t>(ranking[static_cast<size_t>(r)]);
    if (!may[e]) continue;
    choice.rank.push_back(r);
    choice.gain.push_back(record.gains(token)[e]);
  }
  choice.short_of = choice.rank.size() < k && record.ranks < record.experts;
  const double scale = record.rule.scale / divisor(record, token, kept, choice.gain);
  for (double& gain : choice.gain) gain *= scale;
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
