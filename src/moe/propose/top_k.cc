#include "moe/propose/top_k.h"

#include <cmath>

#include "kernels/top_k.h"

namespace choir::moe {

TopK TopK::read(Arguments& arguments) { return {arguments.whole("k", 1, 4096)}; }

std::string TopK::text() const { return written(kName, {std::to_string(k)}); }

void TopK::propose(const Context& context, Matrix<const float> key, std::vector<int32_t>& proposed) const {
  constexpr int kRows = 64;  // of one piece
  const auto choices = static_cast<size_t>(k);
  proposed.resize(static_cast<size_t>(key.rows) * choices);
  context.threads.for_each((key.rows + kRows - 1) / kRows, [&](int piece) {
    for (int t = piece * kRows; t < std::min(key.rows, (piece + 1) * kRows); ++t) {
      const auto slots = std::span(proposed).subspan(static_cast<size_t>(t) * choices, choices);
      kernels::top_k(key.row(t), slots);
      for (int32_t& e : slots)
        if (key[t][e] == -HUGE_VALF) e = -1;  // masked
    }
  });
}

}  // namespace choir::moe
