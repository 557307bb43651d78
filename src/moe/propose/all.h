// propose "all": each token names every expert; the experts do the choosing (expert choice, arXiv 2202.09368).
#pragma once

#include <cmath>

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

struct ProposeAll {
  static constexpr const char* kName = "all";

  static ProposeAll read(Arguments&) { return {}; }
  std::string text() const { return kName; }
  int choices(int experts) const { return experts; }
  // Slot e of every token is expert e, or empty where that is masked.
  void propose(const Context&, Matrix<const float> key, std::vector<int32_t>& proposed) const {
    proposed.resize(static_cast<size_t>(key.rows) * static_cast<size_t>(key.cols));
    for (int t = 0; t < key.rows; ++t)
      for (int e = 0; e < key.cols; ++e)
        proposed[static_cast<size_t>(t) * key.cols + e] = key[t][e] == -HUGE_VALF ? -1 : e;
  }
};

}  // namespace choir::moe
