#include "compress/sets.h"

#include <algorithm>

#include "base/error.h"
#include "compress/choose.h"
#include "compress/kept_counts.h"

namespace choir::compress {
namespace {

// Calls choose(first expert of the group, its size, how many of it stay) for each group and numbers the answers.
template <class Function>
std::vector<int> from_each_group(const LayerRecord& record, int count, const Function& choose) {
  const int groups = record.rule.groups, size = record.experts / groups;
  std::vector<int> kept;
  for (int g = 0; g < groups; ++g)
    for (const int e : choose(g * size, size, count / groups)) kept.push_back(g * size + e);
  return kept;
}

}  // namespace

void check_keep(const LayerRecord& record, int count) {
  const std::string reason = misfit(record.rule, record.experts, count);
  if (reason.empty()) return;
  base::usage_error("a layer cannot keep so many experts: " + reason,
                    "a layer of " + std::to_string(record.experts) + " experts",
                    "keep at least " + std::to_string(least_count(record.rule, record.experts)));
}

std::vector<int> frequent_set(const LayerRecord& record, int count) {
  return from_each_group(record, count, [&](int first, int size, int each) {
    return choose_frequent({record.coverage.begin() + first, record.coverage.begin() + first + size}, each);
  });
}

std::vector<int> random_set(const LayerRecord& record, int count, base::Rng& rng) {
  return from_each_group(record, count, [&](int, int size, int each) { return choose_random(rng, size, each); });
}

std::vector<int> members(std::span<const uint8_t> kept) {
  std::vector<int> set;
  for (size_t e = 0; e < kept.size(); ++e)
    if (kept[e]) set.push_back(static_cast<int>(e));
  return set;
}

void BestSets::offer(ScoredSet set) {
  if (!wanted(set.loss)) return;
  if (std::ranges::any_of(best_, [&](const ScoredSet& other) { return other.kept == set.kept; })) return;
  const auto place = std::ranges::find_if(best_, [&](const ScoredSet& other) { return set.loss < other.loss; });
  best_.insert(place, std::move(set));
  if (best_.size() > room_) best_.pop_back();
}

}  // namespace choir::compress
