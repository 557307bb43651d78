#include "compress/select.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "base/error.h"
#include "compress/kept_counts.h"
#include "compress/sets.h"

namespace choir::compress {
namespace {

void check_count(const moe::SubsetRule& rule, const std::vector<int>& pinned, int experts, int keep) {
  if (const std::string fault = misfit(rule, experts, keep); !fault.empty())
    base::usage_error(fault, "keep", "the least is " + std::to_string(least_count(rule, experts)));
  const int most = most_pinned(pinned, experts, rule.groups) * rule.groups;
  if (most > keep)
    base::usage_error("keep " + std::to_string(keep), "keep",
                      "pinned experts need " + std::to_string(most) + " to be kept, or pin fewer");
}

// The experts of a group in the order in which they stay: pinned ones, then by score.
std::vector<int> ranked(const ScoredLayer& layer, int group) {
  const int size = static_cast<int>(layer.score.size()) / layer.rule.groups;
  std::vector<int> order(static_cast<size_t>(size));
  std::iota(order.begin(), order.end(), group * size);
  const auto pinned = [&](int e) { return std::ranges::find(layer.pinned, e) != layer.pinned.end(); };
  std::ranges::stable_sort(order, [&](int a, int b) {
    if (pinned(a) != pinned(b)) return pinned(a);
    return layer.score[static_cast<size_t>(a)] > layer.score[static_cast<size_t>(b)];
  });
  return order;
}

// What the layer gains by one more expert in each group, when it has `keep`: the mean of their scores.
double next_worth(const ScoredLayer& layer, int keep) {
  double sum = 0;
  for (int g = 0; g < layer.rule.groups; ++g)
    sum += layer.score[static_cast<size_t>(ranked(layer, g)[static_cast<size_t>(keep / layer.rule.groups)])];
  return sum / layer.rule.groups;
}

int floor_of(const ScoredLayer& layer, int slack) {
  const int experts = static_cast<int>(layer.score.size()), groups = layer.rule.groups;
  int least = std::max(layer.rule.k + slack, most_pinned(layer.pinned, experts, groups) * groups);
  while (least < experts && !misfit(layer.rule, experts, least).empty()) ++least;
  return std::min(least, experts);
}

}  // namespace

std::vector<int> choose_by_score(const ScoredLayer& layer, int keep) {
  check_count(layer.rule, layer.pinned, static_cast<int>(layer.score.size()), keep);
  std::vector<int> kept;
  for (int g = 0; g < layer.rule.groups; ++g) {
    const std::vector<int> order = ranked(layer, g);
    kept.insert(kept.end(), order.begin(), order.begin() + keep / layer.rule.groups);
  }
  std::ranges::sort(kept);
  return kept;
}

std::vector<int> counts_over_layers(std::span<const ScoredLayer> layers, int64_t total, int slack) {
  std::vector<int> count;
  for (const ScoredLayer& layer : layers) count.push_back(floor_of(layer, slack));
  int64_t left = total - std::accumulate(count.begin(), count.end(), int64_t{0});
  if (left < 0)
    base::usage_error("keep " + std::to_string(total) + " experts altogether", "keep",
                      "the layers need " + std::to_string(total - left));
  struct Next {
    double worth;
    size_t layer;
  };
  // The best on top of the heap; a layer's worths fall, so its next one is all that must be known of it.
  const auto later = [](const Next& a, const Next& b) {
    return a.worth != b.worth ? a.worth < b.worth : a.layer > b.layer;
  };
  std::vector<Next> heap;
  const auto push = [&](size_t l) {
    if (count[l] >= static_cast<int>(layers[l].score.size())) return;
    heap.push_back({next_worth(layers[l], count[l]), l});
    std::ranges::push_heap(heap, later);
  };
  for (size_t l = 0; l < layers.size(); ++l) push(l);
  while (!heap.empty()) {
    std::ranges::pop_heap(heap, later);
    const size_t l = heap.back().layer;
    heap.pop_back();
    if (layers[l].rule.groups > left) continue;
    count[l] += layers[l].rule.groups;
    left -= layers[l].rule.groups;
    push(l);
  }
  return count;
}

SampledChoice choose_sampled(const LayerRecord& record, int keep, int samples, uint64_t seed, Threads& threads) {
  check_keep(record, keep);
  if (samples < 1) base::usage_error("no sets to try", "samples", "give 1 or more");
  base::Rng rng(seed);
  Replay replay(record, {}, threads);
  SampledChoice best;
  for (int i = 0; i < samples; ++i) {
    std::vector<int> set = random_set(record, keep, rng);
    replay.keep(set);
    const double loss = replay.batched_norms();
    if (best.keep.empty() || loss < best.loss) best = {std::move(set), loss};
  }
  return best;
}

}  // namespace choir::compress
