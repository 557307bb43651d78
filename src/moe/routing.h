// What the words of a router see, and what they leave behind for one another.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/arena.h"
#include "base/threads.h"
#include "moe/plan.h"
#include "tensor/buffer.h"

namespace choir::moe {

using base::Threads;
using tensor::Buffer;
using tensor::Matrix;
using tensor::Weight;

// The tokens of one call, all sequences after one another. Only x is always there.
struct Tokens {
  Matrix<const float> x;              // (N,D)
  std::span<const int32_t> id;        // [N] token ids, for hashing
  std::span<const int32_t> sequence;  // [S] the row at which each sequence begins; empty: one sequence
  std::span<const int32_t> node;      // [N] the node a token lives on, below `nodes`
  int nodes = 1;
  std::span<const uint8_t> padding;  // [N] 1 for rows that are no tokens; empty: none
  Matrix<const float> previous;      // (N,E) scores of the layer before; without data: this is the first

  int rows() const { return x.rows; }
  bool counts(int t) const { return padding.empty() || !padding[static_cast<size_t>(t)]; }
  int counted() const;  // rows that are tokens: the N of every formula
};

// A router may look at other tokens while it trains; at evaluation and decoding it must not. Every word that does the
// first has a rule of its own for the second.
enum class Rule { kTraining, kDecode };

struct Context {
  Tokens tokens;
  int experts;                      // E, those without weights included
  int idle = 0;                     // of them without weights; they come last
  int zero = 0;                     // the first of these, which give 0
  std::span<const Weight> tensors;  // of the score word, in the order of its tensors()
  std::span<const float> state;     // the word's own
  std::span<const float> shares;    // [E] of the proposals of the whole step, where this call is a part; else empty
  Rule rule = Rule::kDecode;
  uint64_t seed = 0;  // of the layer and step, for words that draw
  Threads& threads;

  size_t pairs() const { return static_cast<size_t>(tokens.rows()) * static_cast<size_t>(experts); }
};

// What a routing leaves behind: the Plan, and what the backward, the statistics and the calibration read. Grows as
// needed; reuse it from call to call.
struct Routing {
  Buffer<float> score;                // [N*E] logits or scaled affinities z
  Buffer<float> selection;            // [N*E] what the proposals compared, where it differs from the scores
  bool selected = false;              // whether it does, in the last call
  Buffer<float> probability;          // [N*E] softmax of z; of the words that read it
  Buffer<float> log_sum;              // [N] log sum_e exp(z)
  float scale = 1;                    // z = scale * affinity, unless z is a plain product with the gate; then
  std::vector<float> inverse_length;  // [E] holds 1 / |w_e|, for admissions that compare cosines
  std::vector<int32_t> proposed;      // [N*K] before admission, -1 where a token proposes fewer
  std::vector<int32_t> best;          // [N*k] the k best, of weights over=k
  std::vector<int32_t> chosen;        // [N*K] after it, -1 where an expert refused or was skipped
  std::vector<float> affinity;        // [N*K] of each proposal, what top_capacity compared while training
  int capacity = 0;                   // most tokens that an expert took; 0: no limit
  Plan plan;
  double balance_loss = 0;  // of this layer, weights included; 0 where the caller asked for none
  // ln C_min of remark 7 of ETR (arXiv 2406.00023); none where no cosines of the tokens are at hand, or without losses.
  std::optional<double> log_min_capacity;

  Matrix<float> scores(int experts) const { return score.matrix(plan.tokens, experts); }
  Matrix<float> probabilities(int experts) const { return probability.matrix(plan.tokens, experts); }
  // (N,E) what the proposals compared.
  Matrix<float> compared(int rows, int experts) const { return (selected ? selection : score).matrix(rows, experts); }
};

// (rows,cols) zeros among the lists of a function.
inline Matrix<float> matrix_in(base::Frame& frame, int rows, int cols) {
  return {frame.list<float>(static_cast<size_t>(rows) * static_cast<size_t>(cols)).data(), rows, cols};
}

// Calls body(t) for every token, shared out over the threads.
template <class Body>
void each_token(const Context& context, const Body& body) {
  constexpr int kRows = 128;  // of one piece
  const int rows = context.tokens.rows();
  context.threads.for_each((rows + kRows - 1) / kRows, [&](int piece) {
    for (int t = piece * kRows; t < rows && t < (piece + 1) * kRows; ++t) body(t);
  });
}

// A tensor of the gate: its name behind "block_sparse_moe.", and its shape.
struct GateTensor {
  std::string name;
  int rows, cols;
  float initial = 0, deviation = 0.02f;  // training starts from initial, plus normal noise
  bool vector = false;                   // stored as [cols], in float, and without weight decay
  bool orthogonal = false;               // rows at right angles, each as long as normal numbers make it in the mean
};

// key_te += sign shift_e; a masked expert stays masked.
void shift_rows(const Context& context, std::span<const float> shift, float sign, Matrix<float> key);

}  // namespace choir::moe
