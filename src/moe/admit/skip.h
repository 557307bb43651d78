// admit "skip(beta)": the second expert of a token is skipped when its weight is small beside the first's
// (dynamic expert skipping, arXiv 2402.14800, section 3.3).
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

// w_2 / w_1 of softmax weights from the two logits: the other experts and the normaliser cancel.
float weight_ratio(float first, float second);

// For top-2 routing. Drops slot 1 of a token iff w_2 < beta w_1, strictly. Causal: looks at one token alone.
struct Skip {
  static constexpr const char* kName = "skip";
  static constexpr bool kCausal = true;
  float beta = 0;

  static Skip read(Arguments& arguments);
  std::string text() const { return written(kName, {written(beta)}); }
  void admit(const Context& context, Routing& routing) const;
};

}  // namespace choir::moe
