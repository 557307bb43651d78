#include "compress/kept_counts.h"

#include <algorithm>
#include <cmath>

namespace choir::compress {

std::string misfit(const moe::SubsetRule& rule, int experts, int keep) {
  const std::string kept = std::to_string(keep) + " experts kept";
  if (keep > experts) return kept + ", there are " + std::to_string(experts);
  if (keep < std::max(rule.k, 1)) return kept + ", each token uses " + std::to_string(rule.k);
  const std::string groups = std::to_string(rule.groups) + " groups";
  if (keep % rule.groups != 0) return kept + ", the router's " + groups + " must stay equally large";
  const int each = keep / rule.groups;
  if (each * rule.kept_groups < rule.k)
    return kept + ", " + std::to_string(rule.kept_groups) + " of " + groups + " must hold the " +
           std::to_string(rule.k) + " experts of a token";
  if (rule.by_top_two && each < std::min(2, experts / rule.groups))
    return kept + ", each of " + groups + " is worth its two best experts";
  return {};
}

int least_count(const moe::SubsetRule& rule, int experts) {
  int keep = 1;
  while (keep < experts && !misfit(rule, experts, keep).empty()) ++keep;
  return keep;
}

int count_of_share(const moe::SubsetRule& rule, int experts, double share) {
  return rule.groups * static_cast<int>(std::floor(share * experts / rule.groups + 0.5));
}

}  // namespace choir::compress
