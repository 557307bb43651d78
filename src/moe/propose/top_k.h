// propose "top_k(k)": each token names the k experts of highest score; of equal scores the lower number.
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

struct TopK {
  static constexpr const char* kName = "top_k";
  int k = 2;

  static TopK read(Arguments& arguments);
  std::string text() const;
  int choices(int) const { return k; }
  // proposed[t*k + s] = the expert in slot s of token t, best first; -1 where only masked experts are left.
  void propose(const Context& context, Matrix<const float> key, std::vector<int32_t>& proposed) const;
};

}  // namespace choir::moe
