// What is left to know of a router when experts are taken out: how the remaining ones are chosen and weighed.
#pragma once

#include <optional>

namespace choir::moe {

struct Words;

// A token's k best experts, by its selection keys (logits, or what select and bias make of them), get the gains
// scale p_e / P. The rules of docs/compress.md: A and B divide by the chosen, C by nothing, D by all that are there.
struct SubsetRule {
  // p: exp(z), up to a factor of the token; 1 / (1 + exp(-z)); sqrt(log(1 + exp(z))).
  enum class Gain { kSoftmax, kSigmoid, kSqrtSoftplus };
  enum class Over { kChosen, kAll, kNothing };

  int k = 1;
  int groups = 1, kept_groups = 1;  // E: the k best within the kept_groups best of `groups` groups of neighbours
  bool by_top_two = false;          // a group is worth its best expert, or the sum of its two best
  Gain gain = Gain::kSoftmax;
  Over over = Over::kChosen;
  float scale = 1;
};

// How the weigh word makes a weight of one logit before it divides it; nothing for weights of another kind.
std::optional<SubsetRule::Gain> gain_of(const Words& words);

// p of a logit; `most` is the token's largest.
float gain_of_logit(SubsetRule::Gain gain, float z, float most);

// Nothing for a router that is another one without some of its experts.
std::optional<SubsetRule> subset_rule_of(const Words& words);

}  // namespace choir::moe
