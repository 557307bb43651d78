// What it costs a token to keep the first few of its experts alone, exactly, from the record of its layer.
#pragma once

#include <string>
#include <vector>

#include "compress/record.h"

namespace choir::compress {

// By what the weights are divided when experts are skipped (docs/compress.md, C41).
struct GainRule {
  enum class Over {
    kKept,  // the mass of those that stay, so that their weights sum to 1 again
    kOwn,   // what the layer divides by when nobody is skipped
    kBest,  // the mass of the `best` best experts of the token, chosen or not
  };
  Over over = Over::kOwn;
  int best = 0;

  bool operator==(const GainRule&) const = default;
};

// The rules that a weigh word can express for a layer of this kind; kOwn is the first. `choices` experts a token, E
// there.
std::vector<GainRule> gain_rules(const moe::SubsetRule& rule, int choices, int experts);

// The weigh word that divides so: one of gain_rules().
std::string weigh_word(const moe::SubsetRule& rule, const GainRule& gain);

// The chosen experts of one token, the largest weight first (of equal ones the better rank), with sums over the first i
// of them at place i - 1.
struct SkipPrefix {
  std::vector<float> weight;                // [K] p of the record
  std::vector<double> mass, alpha, square;  // [K] sum p, sum p <f, z>, sum p p <f, f>
  std::vector<double> best;                 // [M] p of the best experts by key, added up: the mass of the first 1 .. M
  double answer = 0;                        // |z|^2
  double own = 1;                           // the divisor of the layer itself
};

// `best`: M, how many of the token's best experts are added up; at most E.
SkipPrefix skip_prefix(const LayerRecord& record, int token, int best);

// |z - z'|^2 of a token of which the first `kept` experts stay, at least 0.
double skip_error(const moe::SubsetRule& rule, const SkipPrefix& prefix, int kept, const GainRule& gain);

}  // namespace choir::compress
