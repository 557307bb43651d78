#include "moe/score/hash.h"

#include <algorithm>

#include "base/error.h"
#include "moe/noise.h"

namespace choir::moe {

HashScore HashScore::read(Arguments& arguments) { return {arguments.whole("seed", 0, 1 << 30, 0)}; }

std::string HashScore::text() const { return written(kName, {seed == 0 ? "" : "seed=" + std::to_string(seed)}); }

void HashScore::forward(const Context& context, Matrix<float> z) const {
  if (static_cast<int>(context.tokens.id.size()) != z.rows)
    base::usage_error("the router hashes token ids, and there are none", "router", "give the ids of the tokens");
  for (int t = 0; t < z.rows; ++t) {
    std::ranges::fill(z.row(t), 0.0f);
    const auto id = static_cast<uint64_t>(context.tokens.id[static_cast<size_t>(t)]);
    z[t][scramble(static_cast<uint64_t>(seed), id) % static_cast<uint64_t>(z.cols)] = 1;
  }
}

}  // namespace choir::moe
