// propose "all": each token names every expert; the experts do the choosing (expert choice, arXiv 2202.09368).
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

struct ProposeAll {
  static constexpr const char* kName = "all";

  static ProposeAll read(Arguments&) { return {}; }
  std::string text() const { return kName; }
  int choices(int experts) const { return experts; }
  // Slot e of every token is expert e.
  void propose(const Context&, Matrix<const float> key, std::vector<int32_t>& proposed) const {
    proposed.resize(static_cast<size_t>(key.rows) * static_cast<size_t>(key.cols));
    for (size_t i = 0; i < proposed.size(); ++i) proposed[i] = static_cast<int32_t>(i % static_cast<size_t>(key.cols));
  }
};

}  // namespace choir::moe
