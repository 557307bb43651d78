// Substitution: a dropped expert answered by a kept one, times a factor.
#pragma once

#include "compress/gain_policy.h"

namespace choir::compress {

// Products of two experts' answers over the tokens that the full layer routes to the first and whose captured ranks
// hold the second, times the token's weight and the first one's squared gain.
struct PairMoments {
  int experts = 0;
  std::vector<double> cross, square, own;  // [E*E] <f_j,f_i>, |f_i|^2, |f_j|^2 at j * E + i

  size_t at(int j, int i) const {
    return static_cast<size_t>(j) * static_cast<size_t>(experts) + static_cast<size_t>(i);
  }
};

PairMoments pair_moments(const LayerRecord& record, std::span<const double> weight = {});

// Which kept expert answers for each, and times what: itself and 1 for the kept.
struct Substitution {
  std::vector<int> to;         // [E]; -1 for a dropped expert that no kept one resembles
  std::vector<double> factor;  // [E]
};

// For each dropped j the kept i that takes most from sum a_tj^2 |f_tj - tau f_ti|^2, tau the best factor
// (docs/compress.md, C53). Tokens that have not captured i count as not helped.
Substitution find_substitutes(const PairMoments& moments, std::span<const uint8_t> kept);

// J of the layer whose tokens are chosen for and weighed as with every expert there (kDrop) while dropped experts are
// answered for. `missed` counts the tokens that needed an expert beyond their captured ranks and went without it: with
// every rank captured J is exact. Evaluated alone: no model of Choir sends two rows of a router to one expert.
double substitution_loss(const PolicyCase& c, const Substitution& substitution, int64_t& missed);

}  // namespace choir::compress
