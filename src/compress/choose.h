// Which experts of a layer stay, by each method.
#pragma once

#include "base/rng.h"
#include "compress/subset_error.h"

namespace choir::compress {

// The complement in 0 .. experts-1, ascending.
std::vector<int> others(const std::vector<int>& set, int experts);
ExpertSet as_set(const std::vector<int>& experts);

// The first least loss in the order of combinations() of the dropped experts. With a NaN among them: any.
std::vector<int> choose_exact(const SubsetErrors& errors, int experts, int keep);
// Of equally frequent experts the lower number stays.
std::vector<int> choose_frequent(const std::vector<int64_t>& tokens, int keep);
std::vector<int> choose_random(base::Rng& rng, int experts, int keep);

}  // namespace choir::compress
