// score "hash": a token id always goes to the same expert, chosen by a fixed hash (arXiv 2106.04426). z is 1 at that
// expert and 0 elsewhere; nothing is learnt.
#pragma once

#include "moe/score/linear.h"

namespace choir::moe {

struct HashScore {
  static constexpr const char* kName = "hash";
  int seed = 0;

  static HashScore read(Arguments& arguments);
  std::string text() const;
  std::vector<GateTensor> tensors(int, int) const { return {}; }
  // Throws Error (usage) where token ids are not known.
  void forward(const Context& context, Matrix<float> z) const;
  void backward(const Context&, const Routing&, Matrix<const float>, const ScoreGradient&) const {}
};

}  // namespace choir::moe
