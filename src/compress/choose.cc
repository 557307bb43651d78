#include "compress/choose.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace choir::compress {
namespace {

std::vector<int> first_sorted(std::vector<int> order, int count) {
  order.resize(static_cast<size_t>(count));
  std::ranges::sort(order);
  return order;
}

std::vector<int> numbered(int count) {
  std::vector<int> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

}  // namespace

std::vector<int> others(const std::vector<int>& set, int experts) {
  std::vector<int> rest;
  for (int e = 0; e < experts; ++e)
    if (!std::ranges::binary_search(set, e)) rest.push_back(e);
  return rest;
}

ExpertSet as_set(const std::vector<int>& experts) {
  ExpertSet set = 0;
  for (const int e : experts) set |= ExpertSet{1} << e;
  return set;
}

std::vector<int> choose_exact(const SubsetErrors& errors, int experts, int keep) {
  std::vector<int> best;
  double least = std::numeric_limits<double>::infinity();
  for (const std::vector<int>& dropped : combinations(experts, experts - keep)) {
    const double loss = errors.loss(errors.all() ^ as_set(dropped));
    if (!best.empty() && !(loss < least)) continue;
    least = loss;
    best = others(dropped, experts);
  }
  return best;
}

std::vector<int> choose_frequent(const std::vector<int64_t>& tokens, int keep) {
  std::vector<int> order = numbered(static_cast<int>(tokens.size()));
  std::ranges::stable_sort(order, [&](int a, int b) { return tokens[a] > tokens[b]; });
  return first_sorted(std::move(order), keep);
}

// The first draws of a Fisher-Yates shuffle.
std::vector<int> choose_random(base::Rng& rng, int experts, int keep) {
  std::vector<int> order = numbered(experts);
  for (int i = 0; i < keep; ++i)
    std::swap(order[i], order[i + static_cast<int>(rng.below(static_cast<uint64_t>(experts - i)))]);
  return first_sorted(std::move(order), keep);
}

}  // namespace choir::compress
