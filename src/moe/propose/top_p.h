// propose "top_p(p)" and "mass(tau)": each token names the fewest experts that together hold a share of its affinity.
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

// The smallest set with sum of softmax(z) >= p (arXiv 2403.07652), of at most `most` experts; 0: of all.
struct TopP {
  static constexpr const char* kName = "top_p";
  float p = 0;
  int most = 0;

  static TopP read(Arguments& arguments);
  std::string text() const;
  int choices(int experts) const { return most > 0 ? most : experts; }
  void propose(const Context& context, Matrix<const float> key, std::vector<int32_t>& proposed) const;
};

// The smallest set with sum of max(z, 0) >= tau times the whole sum: the number of experts of a token by a threshold of
// its affinity sum, one reading of arXiv 2406.00023. A token without a positive score names none.
struct Mass {
  static constexpr const char* kName = "mass";
  float tau = 0;
  int most = 0;

  static Mass read(Arguments& arguments);
  std::string text() const;
  int choices(int experts) const { return most > 0 ? most : experts; }
  void propose(const Context& context, Matrix<const float> key, std::vector<int32_t>& proposed) const;
};

}  // namespace choir::moe
