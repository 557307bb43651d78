// propose "second_random": the best expert, and a second one drawn in proportion to the other probabilities.
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

// GShard (arXiv 2006.16668, section 2.2). Its algorithm 1 takes the second best and keeps it with probability
// min(1, 2 g_2); its code in Lingvo draws the second by Gumbel noise, which is this word. A draw is a function of seed
// and row. At evaluation the second is the second best.
struct SecondRandom {
  static constexpr const char* kName = "second_random";

  static SecondRandom read(Arguments&) { return {}; }
  std::string text() const { return kName; }
  int choices(int) const { return 2; }
  void propose(const Context& context, Matrix<const float> key, std::vector<int32_t>& proposed) const;
};

}  // namespace choir::moe
