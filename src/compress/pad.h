// Equal numbers of experts in every layer, for programs that read one number: experts that are there and never chosen.
#pragma once

#include "compress/mixture.h"

namespace choir::compress {

// Throws Error (usage) in one line naming the first layer whose router cannot say "never". With a selection bias it
// can, and with a bias of the gate; a row of a gate alone gets chosen by some token whatever its finite numbers are.
// The model must be observable.
void check_paddable(const Model& model);

struct Padded {
  Model model;
  std::vector<std::vector<int>> experts;  // [L] those that were added, numbers in the full model, ascending
};

// `pruned`, whose layers keep[l] of the full model, with as many dropped experts put back as the largest layer has
// more: the lowest numbers of each group, with their own weights, and with a bias of -1e30 (-6e4 in f16) that is added
// to what the router's choice compares. Every token's choice, gains and answers stay, bit for bit. Throws Error (usage)
// as check_paddable does and for a layer that has not so many experts.
Padded padded(const Model& full, const Model& pruned, const std::vector<std::vector<int>>& keep);

}  // namespace choir::compress
