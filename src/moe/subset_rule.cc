#include "moe/subset_rule.h"

#include <algorithm>
#include <cmath>

#include "moe/logistic.h"
#include "moe/words.h"

namespace choir::moe {
namespace {

using Gain = SubsetRule::Gain;
using Over = SubsetRule::Over;

bool read(const TopK& word, SubsetRule& rule) {
  rule.k = word.k;
  return true;
}

bool read(const Groups& word, SubsetRule& rule) {
  rule.k = word.k;
  rule.groups = word.groups;
  rule.kept_groups = word.keep;
  rule.by_top_two = word.top_two;
  return true;
}

bool read(const ChosenWeights& word, SubsetRule&) { return word.over.k == 0; }

bool read(const SoftmaxWeights& word, SubsetRule& rule) {
  if (word.release) return false;
  rule.over = word.renorm ? Over::kChosen : Over::kAll;
  rule.scale = word.scale;
  return true;
}

bool read(const SigmoidWeights& word, SubsetRule& rule) {
  rule.gain = Gain::kSigmoid;
  rule.scale = word.scale;
  rule.over = Over::kNothing;
  return true;
}

bool read(const SigmoidNormWeights& word, SubsetRule& rule) {
  rule.gain = Gain::kSigmoid;
  rule.scale = word.scale;
  return word.over.k == 0;
}

bool read(const SqrtSoftplusNormWeights& word, SubsetRule& rule) {
  rule.gain = Gain::kSqrtSoftplus;
  rule.scale = word.scale;
  return word.over.k == 0;
}

template <class Word>
bool read(const Word&, SubsetRule&) {
  return false;
}

// A bias belongs to its expert and goes with it; other numbers would not know where to go.
bool only_a_bias(const std::vector<Balance>& words) {
  return std::ranges::all_of(words, [](const Balance& word) {
    return std::visit(
        [](const auto& w) {
          if constexpr (requires { w.state_size(1); }) return std::is_same_v<std::decay_t<decltype(w)>, BiasBalance>;
          return true;
        },
        word);
  });
}

}  // namespace

void divide_as_without_skip(Weigh& weigh) {
  std::visit(
      [](auto& word) {
        if constexpr (requires { word.over.k; }) word.over.k = 0;
        if constexpr (requires { word.kept; }) word.kept = false;
      },
      weigh);
}

float gain_of_logit(Gain gain, float z, float most) {
  switch (gain) {
    case Gain::kSigmoid: return logistic(z);
    case Gain::kSqrtSoftplus: return sqrt_softplus(z);
    default: return std::exp(z - most);
  }
}

std::optional<Gain> gain_of(const Words& words) {
  SubsetRule rule;
  Weigh weigh = words.weigh;
  divide_as_without_skip(weigh);
  if (!std::visit([&](const auto& word) { return read(word, rule); }, weigh)) return {};
  return rule.gain;
}

std::optional<SubsetRule> subset_rule_of(const Words& words) {
  const auto* linear = std::get_if<LinearScore>(&words.score);
  const bool admits = std::holds_alternative<AdmitAll>(words.admit) || std::holds_alternative<Skip>(words.admit);
  const auto biases = std::ranges::count_if(
      words.balance, [](const Balance& word) { return std::holds_alternative<BiasBalance>(word); });
  if (!linear || linear->residual || !admits || biases > 1 || !only_a_bias(words.balance)) return {};
  SubsetRule rule;
  const auto understood = [&](const auto& word) { return read(word, rule); };
  if (!std::visit(understood, words.propose) || !std::visit(understood, words.weigh)) return {};
  return rule;
}

}  // namespace choir::moe
