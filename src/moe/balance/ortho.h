// balance "ortho(c)": c |V V^T - I|^2 over all pairs of experts draws their gate vectors apart; V holds these at
// length 1.
#pragma once

#include "moe/balance/load.h"

namespace choir::moe {

// On the first tensor of the score, which has a row for each expert. A row of zeros stays as it is.
struct Ortho {
  static constexpr const char* kName = "ortho";
  float c = 0;

  static Ortho read(Arguments& arguments);
  std::string text() const { return written(kName, {written(c)}); }
  double loss(const Context& context, const Routing& routing) const;
  void backward(const Context& context, const Routing& routing, const BalanceGradient& gradient) const;
};

}  // namespace choir::moe
