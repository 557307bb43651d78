// score "none": of a layer without routed experts.
#pragma once

#include <string>
#include <vector>

#include "moe/score/linear.h"

namespace choir::moe {

// There is nothing to score, so there are no tensors either. With proposals "all" a token has as many choices as the
// layer has experts: none.
struct NoScore {
  static constexpr const char* kName = "none";

  static NoScore read(Arguments&) { return {}; }
  std::string text() const { return kName; }
  bool is_cosine() const { return false; }
  std::string misfit(int experts, int) const { return experts > 0 ? "it is that of a layer without any" : ""; }
  std::vector<GateTensor> tensors(int, int) const { return {}; }
  void forward(const Context&, Matrix<float>) const {}
  void backward(const Context&, const Routing&, Matrix<const float>, const ScoreGradient&) const {}
};

}  // namespace choir::moe
