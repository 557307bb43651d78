// What one layer did with the calibration tokens, kept so that every later question is answered without the model:
// which set of experts to keep, what it costs, what repairs it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "moe/subset_rule.h"

namespace choir::compress {

// N tokens, E experts, m captured ranks, D channels. f_tj is the answer of expert j to token t, without its gain. A set
// of kept experts changes the layer's output of a token by sum_j (a_j - b_j) f_tj, gains before and after, so that its
// squared error is a quadratic form in the Gram matrix of the answers (docs/compress.md, C10).
struct LayerRecord {
  moe::SubsetRule rule;
  int experts = 0, ranks = 0, width = 0;

  std::vector<float> key;       // [N*E] what the choice compares
  std::vector<float> p;         // [N*E] gains before the rule divides them; softmax up to a factor of the token
  std::vector<int32_t> order;   // [N*m] experts by key, the best first; of equal keys the lower number first
  std::vector<float> gram;      // [N*m(m+1)/2] <f_ti, f_tj> of ranks i <= j, row after row of the upper triangle
  std::vector<float> residual;  // [N] |h|^2 of the stream that the layer adds to
  std::vector<float> turned;    // [N] 1 - cos(h, h + z), at least 0
  std::vector<int32_t> batch;   // [S+1] the tokens of calibration batch s are batch[s] .. batch[s+1]-1

  // Of the tokens T_j that the layer routes to expert j, with gain a_tj.
  std::vector<int64_t> coverage;    // [E] |T_j|
  std::vector<double> mean;         // [E*D] sum f_tj / |T_j|; zero where T_j is empty
  std::vector<double> gained_mean;  // [E*D] sum a_tj^2 f_tj / sum a_tj^2: the constant that stands best for the expert

  // Experts that no choice drops, ascending: whoever asks the questions says so (RecordSource). No file holds them.
  std::vector<int> pinned;

  // [N] |g_t|^2 of loss_gradients(), from the same hand; empty unless it is asked for.
  std::vector<float> slope;

  int tokens() const { return batch.empty() ? 0 : batch.back(); }
  size_t triangle() const { return static_cast<size_t>(ranks) * (static_cast<size_t>(ranks) + 1) / 2; }
  const float* keys(int t) const { return key.data() + static_cast<size_t>(t) * static_cast<size_t>(experts); }
  const float* gains(int t) const { return p.data() + static_cast<size_t>(t) * static_cast<size_t>(experts); }
  std::span<const int32_t> ranking(int t) const {
    return {order.data() + static_cast<size_t>(t) * static_cast<size_t>(ranks), static_cast<size_t>(ranks)};
  }
  // <f_i, f_j> of two ranks.
  float product(int t, int i, int j) const {
    if (i > j) std::swap(i, j);
    const size_t m = static_cast<size_t>(ranks), r = static_cast<size_t>(i);
    return gram[static_cast<size_t>(t) * triangle() + r * m - r * (r - 1) / 2 + static_cast<size_t>(j - i)];
  }
  // sum[r] += factor <f_i, f_r> for every rank r.
  void add_products(int t, int i, double factor, std::span<double> sum) const;
};

// [groups] whether a token may choose from each group, when these experts are kept.
std::vector<uint8_t> open_groups(const LayerRecord& record, int token, std::span<const uint8_t> kept);

// The chosen experts of a token as ranks, the best first, and what they get.
struct Choice {
  std::vector<int> rank;     // at most k; fewer where too few kept experts are among the captured ranks
  std::vector<double> gain;  // of each
  bool short_of = false;     // a kept expert beyond the captured ranks should have been chosen
};

// What the layer's own rule makes of the kept experts: kept[e] != 0. Group-limited choices need every rank captured.
Choice choose(const LayerRecord& record, int token, std::span<const uint8_t> kept);

// The same without the gains: the chosen ranks go into `rank`, which has room for k. Returns how many.
size_t chosen_ranks(const LayerRecord& record, int token, std::span<const uint8_t> kept, std::span<int> rank);

// What the rule divides the gains of the chosen ranks by, before the scale; 0 where nobody is left.
double divisor(const LayerRecord& record, int token, std::span<const uint8_t> kept, std::span<const int> rank);

// The choice with every expert there, whose gains are the a of the formulas.
Choice own_choice(const LayerRecord& record, int token);

// |sum_j (a_j - b_j) f_tj|^2, at least 0.
double squared_error(const LayerRecord& record, int token, const Choice& own, const Choice& other);

}  // namespace choir::compress
