// The reconstruction loss of every set of kept experts of one layer, from one pass over the tokens.
#pragma once

#include <cstdint>

#include "compress/capture.h"

namespace choir::compress {

// A set of experts as bits.
using ExpertSet = uint32_t;

// All k-subsets of 0 .. n-1, each ascending, in lexicographic order (that of Python's itertools.combinations).
std::vector<std::vector<int>> combinations(int n, int k);

// For rules that choose the K best of the kept experts and give them gains by a softmax over the chosen: dropping
// experts changes a token only by the K experts it then uses. They are some K of its ranks x_1 < ... < x_K, and they
// are used exactly when all of them are kept and every other expert before x_K is dropped. So a table T[u][B] of
// errors, u the chosen set and B the experts that must be dropped for it, holds the loss of every kept set R:
//
//   loss(R)^2 = sum over u inside R, sum over B outside R of T[u][B].
//
// Not thread-safe. Results do not depend on the number of threads.
class SubsetErrors {
 public:
  // Losses of all sets of at least `least_keep` experts, top_k <= least_keep <= experts.
  SubsetErrors(int experts, int top_k, int least_keep);

  // Whether the table of such a layer has a size that can be afforded: with two experts for each token up to 16
  // experts.
  static bool fits(int experts, int top_k);

  int ranks() const { return ranks_; }  // how many ranks of a token matter: a capture must have them

  // Adds tokens of the current batch; target (N,D) is what the layer put out before experts were dropped.
  void add(const Capture& capture, Matrix<const float> target, Threads& threads);

  // Ends a batch: the loss of each set grows by the Frobenius norm of its error over the batch.
  void end_batch(Threads& threads);

  double loss(ExpertSet kept) const;
  ExpertSet all() const { return (ExpertSet{1} << experts_) - 1; }

 private:
  void measure(const Capture& capture, Matrix<const float> target, int token);
  void file(const Capture& capture, int token);
  double* row(size_t choice) { return table_.data() + (choice << experts_); }

  int experts_, top_k_, least_keep_, ranks_;
  std::vector<std::vector<int>> rank_sets_;  // the K-subsets of the ranks
  std::vector<ExpertSet> choices_;           // the K-subsets of the experts, as bits
  std::vector<int32_t> index_;               // [2^E] place of such a set in choices_
  std::vector<double> table_;                // [choices, 2^E] T of the current batch
  std::vector<double> errors_;               // [N, rank sets] of the tokens being added
  std::vector<double> losses_;               // [2^E]
};

}  // namespace choir::compress
