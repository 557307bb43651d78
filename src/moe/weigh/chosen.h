// weigh "chosen": softmax over the kept experts of a token, which is the softmax over all, renormalised over the kept.
// "chosen(over=k)": the same numbers divided by the mass of the k best experts of the token, kept or not (k1/k2, arXiv
// 2609.04575): what is skipped then lowers the sum of the weights. With k that of top_k it is softmax(renorm).
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"
#include "moe/weigh/best.h"

namespace choir::moe {

// What a capacity refuses raises the weights of what it leaves; softmax(renorm) does not. Where the second expert is
// skipped, that is what is wanted. With one kept expert the weight is 1 and the router gets no gradient.
struct ChosenWeights {
  static constexpr const char* kName = "chosen";
  Best over{};  // none: the kept ones

  static ChosenWeights read(Arguments& arguments) { return {{arguments.whole("over", 1, 4096, 0)}}; }
  std::string text() const { return written(kName, {unless("over", static_cast<float>(over.k), 0)}); }
  std::string misfit(int experts, int) const { return over.misfit(experts); }
  // Fills plan.weight.
  void forward(const Context& context, Routing& routing) const;
  // Adds to dz (N,E), from dweight [M] and the forward's plan.weight.
  void backward(const Context& context, const Routing& routing, std::span<const float> dweight, Matrix<float> dz) const;

 private:
  void forward_over(const Context& context, Routing& routing) const;
  void backward_over(const Context& context, const Routing& routing, std::span<const float> dweight,
                     Matrix<float> dz) const;
};

}  // namespace choir::moe
