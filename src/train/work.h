// Arithmetic that was done, for the share of what a machine can do.
#pragma once

#include "moe/stats.h"
#include "train/data.h"

namespace choir::train {

// What went through a model.
struct Passed {
  int64_t tokens = 0;
  // Twice the pairs of a token and one that it sees, in layers with the model's window and in those without.
  double attended = 0, attended_all = 0;
  std::vector<moe::RoutingStats> routing;  // [L]

  explicit Passed(const model::Config& config) : routing(config.layers.size()) {}
  void add(const TokenBatch& batch, const model::Config& config);  // all but the routing
};

// Counts the multiply-adds of a model's products, those of dropped pairs and of keys behind the window left out.
class ForwardWork {
 public:
  explicit ForwardWork(const model::Config& config);  // must outlive it

  double multiply_adds(const Passed& passed) const;  // of one forward
  double head(const Passed& passed) const;           // a part of it

 private:
  const model::Config& config_;
  double shared_;  // of a token outside experts and attention
};

}  // namespace choir::train
