#include "compress/substitute.h"

#include <algorithm>

#include "base/error.h"

namespace choir::compress {
namespace {

// The captured rank of an expert, or -1.
int rank_of(const LayerRecord& record, int token, int expert) {
  const std::span<const int32_t> ranking = record.ranking(token);
  const auto found = std::ranges::find(ranking, expert);
  return found == ranking.end() ? -1 : static_cast<int>(found - ranking.begin());
}

}  // namespace

PairMoments pair_moments(const LayerRecord& record, std::span<const double> weight) {
  const size_t size = static_cast<size_t>(record.experts) * static_cast<size_t>(record.experts);
  PairMoments m{record.experts, std::vector<double>(size), std::vector<double>(size), std::vector<double>(size)};
  for (int t = 0; t < record.tokens(); ++t) {
    const Choice own = own_choice(record, t);
    const std::span<const int32_t> ranking = record.ranking(t);
    for (size_t s = 0; s < own.rank.size(); ++s) {
      const int from = own.rank[s], j = ranking[static_cast<size_t>(from)];
      const double square = own.gain[s] * own.gain[s] * (weight.empty() ? 1 : weight[static_cast<size_t>(t)]);
      for (int r = 0; r < record.ranks; ++r) {
        const size_t at = m.at(j, ranking[static_cast<size_t>(r)]);
        m.cross[at] += square * record.product(t, from, r);
        m.square[at] += square * record.product(t, r, r);
        m.own[at] += square * record.product(t, from, from);
      }
    }
  }
  return m;
}

Substitution find_substitutes(const PairMoments& moments, std::span<const uint8_t> kept) {
  Substitution result{std::vector<int>(kept.size(), -1), std::vector<double>(kept.size(), 0.0)};
  const int experts = moments.experts;
  for (int j = 0; j < experts; ++j) {
    const auto from = static_cast<size_t>(j);
    if (kept[from]) {
      result.to[from] = j;
      result.factor[from] = 1;
      continue;
    }
    double most = 0;  // of cross^2 / square, what the best factor takes away
    for (int i = 0; i < experts; ++i) {
      const size_t at = moments.at(j, i);
      if (!kept[static_cast<size_t>(i)] || !(moments.square[at] > 0)) continue;
      const double tau = moments.cross[at] / moments.square[at];
      if (tau * moments.cross[at] <= most) continue;
      most = tau * moments.cross[at];
      result.to[from] = i;
      result.factor[from] = tau;
    }
  }
  return result;
}

double substitution_loss(const PolicyCase& c, const Substitution& substitution, int64_t& missed) {
  double loss = 0;
  missed = 0;
  for (int t = 0; t < c.record.tokens(); ++t) {
    const Choice own = own_choice(c.record, t);
    Choice other;
    bool short_of = false;
    for (size_t s = 0; s < own.rank.size(); ++s) {
      const auto j = static_cast<size_t>(c.record.ranking(t)[static_cast<size_t>(own.rank[s])]);
      const int rank = c.kept[j] ? own.rank[s] : rank_of(c.record, t, substitution.to[j]);
      short_of = short_of || (rank < 0 && substitution.to[j] >= 0);
      if (rank < 0) continue;
      other.rank.push_back(rank);
      other.gain.push_back(own.gain[s] * substitution.factor[j]);
    }
    missed += short_of;
    loss += c.weight_of(t) * squared_error(c.record, t, own, other);
  }
  return loss;
}

}  // namespace choir::compress
