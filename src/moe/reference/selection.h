// Who goes where, by plain loops and full sorts over numbers in double. Lists of experts (N,K) are written best first
// with -1 for none; ties go to the lower expert and the lower token.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "moe/reference/layer.h"

namespace choir::moe::reference {

using Lists = std::vector<int32_t>;

// The places of `numbers` from the largest down; equal ones by place.
inline std::vector<size_t> best_first(const std::vector<double>& numbers) {
  std::vector<size_t> order;
  for (size_t i = 0; i < numbers.size(); ++i) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return numbers[a] > numbers[b]; });
  return order;
}

// An expert with score -infinity is never proposed.
inline Lists top_k(const std::vector<double>& z, size_t experts, size_t k) {
  Lists lists;
  for (size_t t = 0; t < z.size() / experts; ++t) {
    const std::vector<double> row = row_of(z, t, experts);
    const std::vector<size_t> order = best_first(row);
    for (size_t s = 0; s < k; ++s) lists.push_back(row[order[s]] > -HUGE_VAL ? int32_t(order[s]) : -1);
  }
  return lists;
}

// For each row of `shares`, the smallest set whose sum reaches `least`; (N,E).
inline Lists smallest_sets(const std::vector<double>& rows, size_t experts, const std::vector<double>& least) {
  Lists lists;
  for (size_t t = 0; t < rows.size() / experts; ++t) {
    double sum = 0;
    for (const size_t e : best_first(row_of(rows, t, experts))) {
      lists.push_back(sum < least[t] ? int32_t(e) : -1);
      sum += rows[t * experts + e];
    }
  }
  return lists;
}

// The smallest set with sum of softmax >= p (arXiv 2403.07652).
inline Lists top_p(const std::vector<double>& z, size_t experts, double p) {
  std::vector<double> probabilities;
  for (size_t t = 0; t < z.size() / experts; ++t)
    for (const double v : softmax(row_of(z, t, experts))) probabilities.push_back(v);
  return smallest_sets(probabilities, experts, std::vector<double>(z.size() / experts, p));
}

// The smallest set with sum of relu(delta) >= share of the token's whole sum; no expert where that is 0.
inline Lists mass(const std::vector<double>& delta, size_t experts, double share) {
  std::vector<double> positive, least(delta.size() / experts);
  for (const double d : delta) positive.push_back(std::max(d, 0.0));
  for (size_t t = 0; t < least.size(); ++t)
    for (const size_t e : best_first(row_of(positive, t, experts))) least[t] += positive[t * experts + e];
  for (double& l : least) l *= share;
  return smallest_sets(positive, experts, least);
}

struct Groups {
  size_t experts = 0, groups = 0, keep = 0;
  bool top_two = false;  // a group is worth the sum of its two best (arXiv 2412.19437), else its best (2405.04434)
};

// top_k within the `keep` best groups of neighbouring experts; the lower group wins a tie.
inline Lists group_top_k(std::vector<double> z, const Groups& g, size_t k) {
  const size_t size = g.experts / g.groups;
  for (size_t t = 0; t < z.size() / g.experts; ++t) {
    std::vector<double> worth;
    for (size_t i = 0; i < g.groups; ++i) {
      std::vector<double> members = row_of(row_of(z, t, g.experts), i, size);
      std::sort(members.rbegin(), members.rend());
      worth.push_back(g.top_two && size > 1 ? members[0] + members[1] : members[0]);
    }
    const std::vector<size_t> order = best_first(worth);
    for (size_t rank = g.keep; rank < g.groups; ++rank)
      for (size_t j = 0; j < size; ++j) z[t * g.experts + order[rank] * size + j] = -HUGE_VAL;
  }
  return top_k(z, g.experts, k);
}

// Every expert with z > 0 (arXiv 2412.14711); (N,E).
inline Lists positive(std::vector<double> z, size_t experts) {
  for (double& v : z) v = v > 0 ? v : -HUGE_VAL;
  return top_k(z, experts, experts);
}

enum class Order { kTokenMajor, kSlotMajor };

// First come, first served: expert e keeps the first capacity[e] of its candidates, all choices of a token before those
// of the next one, or all first choices before all second ones (arXiv 2006.16668, algorithm 1).
inline Lists fifo(const Lists& proposed, size_t k, const std::vector<int64_t>& capacity, Order order) {
  const size_t n = proposed.size() / k;
  std::vector<int64_t> used(capacity.size());
  Lists kept(proposed.size(), -1);
  for (size_t i = 0; i < proposed.size(); ++i) {
    const size_t at = order == Order::kTokenMajor ? i : i % n * k + i / n;
    if (const int32_t e = proposed[at]; e >= 0 && used[size_t(e)]++ < capacity[size_t(e)]) kept[at] = e;
  }
  return kept;
}

enum class Take { kBest, kWorst };  // kWorst: "Bottom-C" of arXiv 2406.00023, eq. 6, taken literally

// Expert e sorts its candidates by key (N,E), takes the first capacity[e] (arXiv 2406.00023, section on the expert
// step).
inline Lists top_capacity(const Lists& proposed, const std::vector<double>& key, size_t k,
                          const std::vector<int64_t>& capacity, Take take = Take::kBest) {
  Lists kept(proposed.size(), -1);
  for (size_t e = 0; e < capacity.size(); ++e) {
    std::vector<size_t> at;
    std::vector<double> keys;
    for (size_t i = 0; i < proposed.size(); ++i) {
      if (proposed[i] != int32_t(e)) continue;
      at.push_back(i);
      keys.push_back((take == Take::kBest ? 1 : -1) * key[i / k * capacity.size() + e]);
    }
    const std::vector<size_t> order = best_first(keys);
    for (size_t c = 0; c < order.size() && int64_t(c) < capacity[e]; ++c) kept[at[order[c]]] = int32_t(e);
  }
  return kept;
}

// Expert e keeps the candidates with key (N,E) >= least[e].
inline Lists threshold(const Lists& proposed, const std::vector<double>& key, size_t k,
                       const std::vector<double>& least) {
  Lists kept = proposed;
  for (size_t i = 0; i < kept.size(); ++i)
    if (kept[i] >= 0 && key[i / k * least.size() + size_t(kept[i])] < least[size_t(kept[i])]) kept[i] = -1;
  return kept;
}

inline bool holds(const Lists& lists, size_t t, size_t k, size_t e) {
  const Lists row = row_of(lists, t, k);
  return std::count(row.begin(), row.end(), int32_t(e)) > 0;
}

// A dropped choice goes to the token's best expert that has room and that the token has neither proposed nor got, into
// its own slot. Served in ascending order of token, then slot.
inline Lists reroute(Lists kept, const Lists& proposed, const std::vector<double>& z, size_t k,
                     const std::vector<int64_t>& capacity) {
  const size_t experts = capacity.size();
  std::vector<int64_t> used(experts);
  for (const int32_t e : kept)
    if (e >= 0) ++used[size_t(e)];
  for (size_t i = 0; i < kept.size(); ++i) {
    if (kept[i] >= 0 || proposed[i] < 0) continue;
    for (const size_t e : best_first(row_of(z, i / k, experts))) {
      if (used[e] >= capacity[e] || holds(proposed, i / k, k, e) || holds(kept, i / k, k, e)) continue;
      kept[i] = int32_t(e);
      ++used[e];
      break;
    }
  }
  return kept;
}

// Each expert takes the `capacity` tokens with the largest p (arXiv 2202.09368); (N,E), expert e in slot e.
inline Lists expert_choice(const std::vector<double>& p, size_t experts, int64_t capacity) {
  Lists everyone;
  for (size_t i = 0; i < p.size(); ++i) everyone.push_back(int32_t(i % experts));
  return top_capacity(everyone, p, experts, std::vector<int64_t>(experts, capacity));
}

// Kept lists sorted by expert, then token; offset (E+1).
struct Edges {
  std::vector<int32_t> offset{0}, token, slot;
};

inline Edges edges_of(const Lists& kept, size_t k, size_t experts) {
  Edges edges;
  for (size_t e = 0; e < experts; ++e) {
    for (size_t i = 0; i < kept.size(); ++i)
      if (kept[i] == int32_t(e)) edges.token.push_back(int32_t(i / k)), edges.slot.push_back(int32_t(i % k));
    edges.offset.push_back(int32_t(edges.token.size()));
  }
  return edges;
}

struct Assignment {
  std::vector<int32_t> expert;  // (N)
  double sum = -HUGE_VAL;
};

// All ways to complete `now`, each expert getting `load` tokens; the first best is kept.
inline void assign_from(const std::vector<double>& scores, size_t experts, size_t load, const Assignment& now,
                        Assignment& best) {
  const size_t t = now.expert.size();
  if (t * experts == scores.size()) {
    if (now.sum > best.sum) best = now;
    return;
  }
  for (size_t e = 0; e < experts; ++e) {
    if (size_t(std::count(now.expert.begin(), now.expert.end(), int32_t(e))) == load) continue;
    Assignment next = now;
    next.expert.push_back(int32_t(e));
    next.sum += scores[t * experts + e];
    assign_from(scores, experts, load, next, best);
  }
}

// The largest sum of scores with N/E tokens for each expert (arXiv 2103.16716), by trying all; tiny N only.
inline Assignment exact_assignment(const std::vector<double>& scores, size_t experts) {
  Assignment best, empty{{}, 0};
  assign_from(scores, experts, scores.size() / experts / experts, empty, best);
  return best;
}

// u_t e^z_te v_e with rows that sum to 1/N and columns to 1/E, by turns until v moves by `tolerance` at most in the
// mean (arXiv 2202.01169, Sinkhorn base). A factor of a row is free, so its largest logit is taken out.
inline std::vector<double> sinkhorn(const std::vector<double>& z, size_t experts, double tolerance = 1e-4) {
  const size_t n = z.size() / experts;
  std::vector<double> cost, u(n), v(experts, 1.0);
  for (size_t t = 0; t < n; ++t)
    for (const double p : softmax(row_of(z, t, experts))) cost.push_back(p);
  for (double moved = HUGE_VAL; moved > tolerance;) {
    moved = 0;
    for (size_t t = 0; t < n; ++t) {
      double sum = 0;
      for (size_t e = 0; e < experts; ++e) sum += cost[t * experts + e] * v[e];
      u[t] = 1 / (double(n) * sum);
    }
    for (size_t e = 0; e < experts; ++e) {
      double sum = 0;
      for (size_t t = 0; t < n; ++t) sum += cost[t * experts + e] * u[t];
      moved += std::abs(1 / (double(experts) * sum) - v[e]) / double(experts);
      v[e] = 1 / (double(experts) * sum);
    }
  }
  for (size_t i = 0; i < cost.size(); ++i) cost[i] *= u[i / experts] * v[i % experts];
  return cost;
}

// One step of quantile balancing: alpha_t = the (K+1)-th largest of z_t - beta, new beta_e = the (NK/E + 1)-th largest
// over t of z_te - alpha_t (J. Su, kexue.fm, 2026). Needs K < E; neither averaged nor centred.
inline std::vector<double> quantile_beta(const std::vector<double>& z, const std::vector<double>& beta, size_t k) {
  const size_t experts = beta.size(), n = z.size() / experts;
  std::vector<double> next, alpha;
  for (size_t t = 0; t < n; ++t) {
    std::vector<double> row = row_of(z, t, experts);
    for (size_t e = 0; e < experts; ++e) row[e] -= beta[e];
    alpha.push_back(row[best_first(row)[k]]);
  }
  for (size_t e = 0; e < experts; ++e) {
    std::vector<double> column;
    for (size_t t = 0; t < n; ++t) column.push_back(z[t * experts + e] - alpha[t]);
    next.push_back(column[best_first(column)[n * k / experts]]);
  }
  return next;
}

inline std::vector<double> centred(std::vector<double> v) {
  double mean = 0;
  for (const double x : v) mean += x / double(v.size());
  for (double& x : v) x -= mean;
  return v;
}

}  // namespace choir::moe::reference
