// balance "cv2(c)": c times the squared coefficient of variation of the experts' importance, or with of=load of a
// smooth estimate of their load (Shazeer et al., arXiv 1701.06538, eq. 6-7 and 11).
#pragma once

#include "moe/balance/load.h"

namespace choir::moe {

// c Var_e(I) / Mean_e(I)^2 with the population variance; I_e = the sum of the gates of the tokens that e keeps, or
// smooth_load. The latter needs the noise of noisy > top_k, so there is no such loss under the rule without noise.
struct Cv2 {
  static constexpr const char* kName = "cv2";
  float c = 0;
  bool of_load = false;

  static Cv2 read(Arguments& arguments);
  std::string text() const { return written(kName, {written(c), of_load ? "of=load" : ""}); }
  double loss(const Context& context, const Routing& routing) const;
  void backward(const Context& context, const Routing& routing, const BalanceGradient& gradient) const;
};

}  // namespace choir::moe
