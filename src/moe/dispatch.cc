#include "moe/dispatch.h"

#include <algorithm>

#include "kernels/work.h"

namespace choir::moe {
namespace {

constexpr int kRows = 32;  // of one piece

int pieces(int rows) { return (rows + kRows - 1) / kRows; }

}  // namespace

void gather(const Plan& plan, Matrix<const float> x, Matrix<float> rows, Threads& threads) {
  const base::Operator op(threads, "gather", kernels::moved, plan.edges(), x.cols, 2);
  threads.for_each(pieces(plan.edges()), [&](int piece) {
    for (int i = piece * kRows; i < std::min(plan.edges(), (piece + 1) * kRows); ++i)
      std::ranges::copy(x.row(plan.token[i]), rows[i]);
  });
}

void combine(const Plan& plan, Matrix<const float> rows, Weighting weighting, Into into, Matrix<float> y,
             Threads& threads) {
  const base::Operator op(threads, "combine", kernels::moved, plan.edges() + plan.tokens, rows.cols, 1);
  const auto add_edges = [&](int t) {
    float* sum = y[t];
    if (into == Into::kSet) std::fill_n(sum, y.cols, 0.0f);
    for (int s = 0; s < plan.choices; ++s) {
      const int32_t i = plan.edge[static_cast<size_t>(t) * plan.choices + s];
      if (i < 0) continue;
      const float weight = weighting == Weighting::kByPlan ? plan.weight[i] : 1.0f;
      const float* row = rows[i];
      for (int d = 0; d < y.cols; ++d) sum[d] += weight * row[d];
    }
  };
  threads.for_each(pieces(plan.tokens), [&](int piece) {
    for (int t = piece * kRows; t < std::min(plan.tokens, (piece + 1) * kRows); ++t) add_edges(t);
  });
}

}  // namespace choir::moe
