#include "compress/sets.h"

#include <algorithm>

#include "base/error.h"
#include "compress/choose.h"
#include "compress/kept_counts.h"

namespace choir::compress {
namespace {

// Of each group its pinned experts and, of the others, those that choose(others, how many) says, as places among them.
template <class Function>
std::vector<int> from_each_group(const LayerRecord& record, int count, const Function& choose) {
  const int groups = record.rule.groups, size = record.experts / groups;
  std::vector<int> kept;
  for (int g = 0; g < groups; ++g) {
    std::vector<int> free;
    for (int e = g * size; e < (g + 1) * size; ++e) (is_pinned(record, e) ? kept : free).push_back(e);
    const int missing = count / groups - (size - static_cast<int>(free.size()));
    for (const int i : choose(free, missing)) kept.push_back(free[static_cast<size_t>(i)]);
  }
  std::ranges::sort(kept);
  return kept;
}

}  // namespace

int most_pinned(const std::vector<int>& pinned, int experts, int groups) {
  std::vector<int> count(static_cast<size_t>(groups), 0);
  for (const int e : pinned) ++count[static_cast<size_t>(e / (experts / groups))];
  return std::ranges::max(count);
}

bool is_pinned(const LayerRecord& record, int expert) { return std::ranges::binary_search(record.pinned, expert); }

std::string misfit(const LayerRecord& record, int count) {
  std::string reason = misfit(record.rule, record.experts, count);
  const int pinned = most_pinned(record.pinned, record.experts, record.rule.groups) * record.rule.groups;
  if (reason.empty() && count < pinned)
    reason = std::to_string(count) + " experts kept, pinned ones need " + std::to_string(pinned);
  return reason;
}

int least_count(const LayerRecord& record, int least) {
  while (least < record.experts && !misfit(record, least).empty()) ++least;
  return least;
}

void check_keep(const LayerRecord& record, int count) {
  const std::string reason = misfit(record, count);
  if (reason.empty()) return;
  base::usage_error(
      "a layer cannot keep so many experts: " + reason, "a layer of " + std::to_string(record.experts) + " experts",
      "keep at least " + std::to_string(least_count(record)) + (record.pinned.empty() ? "" : ", or pin fewer"));
}

std::vector<int> frequent_set(const LayerRecord& record, int count) {
  return from_each_group(record, count, [&](const std::vector<int>& free, int missing) {
    std::vector<int64_t> tokens;
    for (const int e : free) tokens.push_back(record.coverage[static_cast<size_t>(e)]);
    return choose_frequent(tokens, missing);
  });
}

std::vector<int> random_set(const LayerRecord& record, int count, base::Rng& rng) {
  return from_each_group(record, count, [&](const std::vector<int>& free, int missing) {
    return choose_random(rng, static_cast<int>(free.size()), missing);
  });
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
