// propose "assignment": one expert for each token such that all experts get equally many and the sum of the scores is
// the largest possible (BASE layers, arXiv 2103.16716, section 3.2).
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

// While training; loads differ by one at most where the experts do not divide the tokens. At evaluation the best
// expert, as in the published code. The published auction stops at an approximation; this one is exact for scores
// rounded to 2^-37 of the largest. Masked experts get nothing; a NaN counts as a score far below all others.
struct Assignment {
  static constexpr const char* kName = "assignment";
  static constexpr bool kCausal = false;

  static Assignment read(Arguments&) { return {}; }
  std::string text() const { return kName; }
  int choices(int) const { return 1; }
  void propose(const Context& context, Matrix<const float> key, std::vector<int32_t>& proposed) const;
};

}  // namespace choir::moe
