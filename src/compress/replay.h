// Taking experts out of a layer and putting them back, on its record: the loss of every step without the model.
#pragma once

#include "compress/set_loss.h"
#include "tensor/view.h"

namespace choir::compress {

// The loss of the kept set is J = sum over tokens of weight_t |z_t - z'_t|^2, where z' is what the layer's own rule
// makes of the kept experts (docs/compress.md, C10). Where the rule divides by the chosen or by nothing, and where it
// divides by all that are there, a change of one or two experts costs O(1) for a token it touches; within groups the
// token is routed again. Sums run in one order whatever the number of threads. Not thread-safe.
class Replay {
 public:
  // Begins with every expert there. `weight` [N] is not copied; empty: all ones. The record must outlive it.
  Replay(const LayerRecord& record, std::span<const double> weight, Threads& threads);

  void keep(const std::vector<int>& kept);
  void remove(int expert);
  void add(int expert);
  void swap(int out, int in);

  double loss() const { return loss_; }
  const LayerRecord& record() const { return record_; }
  const std::vector<uint8_t>& kept() const { return kept_; }
  int count() const { return count_; }
  // Tokens that should have chosen an expert beyond the captured ranks, and went without it.
  int64_t short_of() const;

  // Change of J when expert e alone is taken out: [E], 0 for those that are out already.
  std::vector<double> removals() const;
  // Change of J when expert e alone comes back: [E], 0 for those that are there.
  std::vector<double> additions() const;
  // Change of J when e goes and i comes: [E*E] at e * E + i, 0 elsewhere. `within_groups`: only where both are of one
  // group of the rule, which so stays as large as it is.
  std::vector<double> swaps(bool within_groups = false) const;

  // J and sum over batches of the norm, of the weights given: the loss of the paper and that of its code.
  double batched_norms() const;

 private:
  // Of one token with experts S chosen: P is what the rule divides by, before the scale.
  struct State {
    double divisor = 0, alpha = 0, beta = 0, error = 0;  // sum p g, sum p h over S
    int next = -1;                                       // the rank of the first survivor behind S; -1: none captured
    bool short_of = false;
  };
  struct Change {
    int out = -1, in = -1;  // ranks that leave S and enter it; -1: none
    double divisor = 0;     // what the divisor grows by besides, where it counts all that are there
  };

  void find_ranks();
  void settle(int token);
  void settle_all();
  void settle_touched(std::span<const int> experts);
  double after(int token, const Change& change) const;
  Change removal(int token, int rank) const;
  Change addition(int token, int rank) const;
  Change exchange(int token, int out, int in) const;
  double rerouted(int token, int out, int in) const;
  void mark_active(int token, std::span<uint8_t> active) const;
  std::vector<double> single_swaps(bool within_groups) const;
  template <class Function>
  std::vector<double> sum_over_tokens(size_t size, const Function& function) const;

  std::span<const int> chosen(int t) const {
    return {chosen_.data() + static_cast<size_t>(t) * k_, count_of_[static_cast<size_t>(t)]};
  }
  bool is_chosen(int t, int rank) const;
  double weight(int t) const { return weight_.empty() ? 1 : weight_[static_cast<size_t>(t)]; }
  double g(int t, int rank) const { return target_.g[static_cast<size_t>(t) * m_ + static_cast<size_t>(rank)]; }
  double h(int t, int rank) const { return h_[static_cast<size_t>(t) * m_ + static_cast<size_t>(rank)]; }
  double p(int t, int rank) const;
  bool over_all() const { return record_.rule.over == moe::SubsetRule::Over::kAll; }
  bool grouped() const { return record_.rule.groups > 1; }

  const LayerRecord& record_;
  std::span<const double> weight_;
  Threads& threads_;
  size_t k_, m_;
  std::vector<uint8_t> kept_;  // [E]
  int count_ = 0;              // of them
  std::vector<int32_t> rank_;  // [N*E] of each expert; m where it was not captured
  Target target_;
  std::vector<double> h_;         // [N*m] sum over S of p_i <f_r, f_i>
  std::vector<int> chosen_;       // [N*k] ranks of S, ascending
  std::vector<size_t> count_of_;  // [N] how many
  std::vector<State> state_;      // [N]
  double loss_ = 0;
};

}  // namespace choir::compress
