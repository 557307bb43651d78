// admit "mask(e, ...)": some experts do not exist for the router; it chooses among the others as if it were made for
// them alone (expert pruning without a new checkpoint, arXiv 2402.14800).
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

// Their scores become -infinity before the softmax and before the choice. A token that would have to choose one of them
// has an empty slot.
struct Mask {
  static constexpr const char* kName = "mask";
  static constexpr bool kCausal = true;
  std::vector<int> experts;  // ascending

  static Mask read(Arguments& arguments);
  std::string text() const;
  std::string misfit(int all, int width) const;
  void forbid(const Context& context, Matrix<float> z) const;
};

}  // namespace choir::moe
