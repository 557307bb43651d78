// balance "entropy(c)": c mean_t H(softmax(z_t)). It rewards sure routers: top-p proposes fewer experts where the
// probabilities are sharp (arXiv 2403.07652).
#pragma once

#include "moe/balance/load.h"

namespace choir::moe {

struct Entropy {
  static constexpr const char* kName = "entropy";
  float c = 0;

  static Entropy read(Arguments& arguments);
  std::string text() const { return written(kName, {written(c)}); }
  bool reads_probability() const { return true; }
  double loss(const Context& context, const Routing& routing) const;
  void backward(const Context& context, const Routing& routing, const BalanceGradient& gradient) const;
};

}  // namespace choir::moe
