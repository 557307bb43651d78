// balance "z_loss(c)": c mean_t (log sum_e exp z_te)^2 keeps logits small (ST-MoE, arXiv 2202.08906, eq. 5).
#pragma once

#include "moe/balance/load.h"

namespace choir::moe {

struct ZLoss {
  static constexpr const char* kName = "z_loss";
  float c = 0;

  static ZLoss read(Arguments& arguments);
  std::string text() const { return written(kName, {written(c)}); }
  bool reads_probability() const { return true; }
  double loss(const Context& context, const Routing& routing) const;
  void backward(const Context& context, const Routing& routing, const BalanceGradient& gradient) const;
};

}  // namespace choir::moe
