#include "compress/coverage.h"

#include <algorithm>
#include <tuple>

namespace choir::compress {

std::vector<RareExpert> rarely_seen(const CoverageTable& table, int64_t least) {
  std::vector<RareExpert> rare;
  for (size_t l = 0; l < table.tokens.size(); ++l)
    for (size_t e = 0; e < table.tokens[l].size(); ++e)
      if (table.tokens[l][e] < least) rare.push_back({static_cast<int>(l), static_cast<int>(e), table.tokens[l][e]});
  std::ranges::sort(rare, {}, [](const RareExpert& r) { return std::tuple(r.tokens, r.layer, r.expert); });
  return rare;
}

bool enough(const CoverageTable& table, int64_t least) {
  return !table.tokens.empty() && rarely_seen(table, least).empty();
}

}  // namespace choir::compress
