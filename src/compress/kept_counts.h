// How many experts a layer can be left with.
#pragma once

#include <string>

#include "moe/subset_rule.h"

namespace choir::compress {

// Why a layer of so many experts cannot be left with `keep` of them, one line; empty: it can. A token needs its k, and
// where a router chooses within groups, every group stays as large as the others and the groups that a token may use
// hold k between them; a group that is worth its two best keeps two.
std::string misfit(const moe::SubsetRule& rule, int experts, int keep);

// The smallest number that fits.
int least_count(const moe::SubsetRule& rule, int experts);

// The number nearest to a share of the experts, of two equally near ones the larger; where the router has groups, the
// nearest multiple of these. It need not fit.
int count_of_share(const moe::SubsetRule& rule, int experts, double share);

}  // namespace choir::compress
