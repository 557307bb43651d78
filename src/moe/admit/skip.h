// admit "skip(...)": a token goes without the experts whose weights are small beside the others'. skip(beta) is dynamic
// expert skipping (arXiv 2402.14800, section 3.3), skip(tail=beta) its form for any top-k (A.2), skip(ser=t, least=n)
// the rule "smart expert reduction" of ik_llama.cpp, skip(count=k) a smaller k.
#pragma once

#include "moe/admit/amends.h"
#include "moe/arguments.h"
#include "moe/routing.h"
#include "moe/subset_rule.h"

namespace choir::moe {

// w_2 / w_1 of a token's two choices from their logits: the other experts and the normaliser cancel.
float weight_ratio(SubsetRule::Gain gain, float one, float other);

// The weights w_1 >= w_2 >= ... of a token's choices, largest first (of equal ones the earlier slot), are those that
// the weigh word makes of their scores before it divides them. What the proposals compared, a selection bias in it,
// decides who is chosen; weights alone decide who of these is skipped. The first i stay, at least one. Causal: looks at
// one token alone.
struct Skip {
  static constexpr const char* kName = "skip";
  static constexpr bool kCausal = true;
  enum class By {
    kRatio,  // of two choices the second is skipped iff w_2 / w_1 < beta
    kTail,   // the smallest i with sum_{q>i} w_q / sum_q w_q <= beta
    kBest,   // those with w_i / w_1 > beta, and the first `least`
    kCount,  // the first `least`
  };

  float beta = 0;  // 0 skips nothing
  By by = By::kRatio;
  int least = 1;
  SubsetRule::Gain gain = SubsetRule::Gain::kSoftmax;  // of the router's weigh word, which tells
  Amends amends{};

  static Skip read(Arguments& arguments);
  std::string text() const;
  std::string misfit(int experts, int width) const;
  void admit(const Context& context, Routing& routing) const;

  int state_size(int) const { return amends.size(); }
  void initial(std::span<float> numbers) const { amends.initial(numbers); }
  void finish(const Context& context, const Plan& plan, Matrix<float> y) const;
  void finish_backward(const Context& context, const Plan& plan, Matrix<float> rows) const;

  // What the threshold is held against: feature[i - 1], for i from 1 to K - 1, of keeping the first i of K weights;
  // never rising. Keeping i is enough where it is below beta, or at most beta for kTail and kBest.
  static void features(By by, std::span<const float> weight, std::span<float> feature);
  // How many of the weights stay. `feature` is room for as many numbers.
  int kept(std::span<const float> weight, std::span<float> feature) const;
};

}  // namespace choir::moe
