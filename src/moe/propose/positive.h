// propose "positive": each token names every expert with a positive score, best first (ReMoE, arXiv 2412.14711).
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

struct Positive {
  static constexpr const char* kName = "positive";

  static Positive read(Arguments&) { return {}; }
  std::string text() const { return kName; }
  int choices(int experts) const { return experts; }
  void propose(const Context& context, Matrix<const float> key, std::vector<int32_t>& proposed) const;
};

}  // namespace choir::moe
