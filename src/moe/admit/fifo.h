// admit "fifo(capacity)": an expert takes the tokens that propose it until it is full; later ones are dropped.
#pragma once

#include "moe/admit/capacity.h"

namespace choir::moe {

// order=token: all choices of a token before those of the next, which is causal within a sequence. order=slot: all
// first choices before all second ones (GShard, arXiv 2006.16668). At evaluation nothing is dropped: what an earlier
// token gets would depend on the batch it is in.
struct Fifo {
  static constexpr const char* kName = "fifo";
  static constexpr bool kCausal = false;
  Capacity capacity;
  bool slot_major = false;

  static Fifo read(Arguments& arguments);
  std::string text() const { return written(kName, {capacity.text(), slot_major ? "order=slot" : ""}); }
  bool reads_cosine(Rule rule) const { return rule == Rule::kTraining && capacity.state_size() > 0; }
  void admit(const Context& context, Routing& routing) const;

  int state_size(int) const { return capacity.state_size(); }
  int sums_size(int) const { return Capacity::kSums; }
  void observe(const Context& context, const Routing& routing, std::span<float> sums) const;
  void update(std::span<const float> sums, std::span<float> state) const { capacity.update(sums, state); }
};

}  // namespace choir::moe
