// balance "cv2(c)": c times the squared coefficient of variation of the experts' importance (Shazeer et al.,
// arXiv 1701.06538, eq. 6-7).
#pragma once

#include "moe/balance/load.h"

namespace choir::moe {

// I_e = the sum of the gates of the tokens that e keeps; c Var_e(I) / Mean_e(I)^2 with the population variance. The
// paper's second such loss, of a smooth estimate of the load, needs the deviation of each score's noise, which no score
// leaves behind; it is not here.
struct Cv2 {
  static constexpr const char* kName = "cv2";
  float c = 0;

  static Cv2 read(Arguments& arguments);
  std::string text() const { return written(kName, {written(c)}); }
  double loss(const Context& context, const Routing& routing) const;
  void backward(const Context& context, const Routing& routing, const BalanceGradient& gradient) const;
};

}  // namespace choir::moe
