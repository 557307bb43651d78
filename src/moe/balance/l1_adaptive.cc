#include "moe/balance/l1_adaptive.h"

#include <algorithm>

namespace choir::moe {
namespace {

constexpr float kLeast = 1e-30f, kMost = 1e6f;  // of lambda

// E f_e / N: what each positive score counts, times lambda.
std::vector<float> prices(const Context& context, const Routing& routing) {
  std::vector<float> f(context.shares.begin(), context.shares.end());
  if (f.empty()) {
    f.resize(static_cast<size_t>(context.experts));
    int64_t proposals = 0;
    for (const int32_t e : routing.proposed)
      if (e >= 0) {
        f[static_cast<size_t>(e)] += 1;
        ++proposals;
      }
    for (float& share : f) share = proposals > 0 ? share / static_cast<float>(proposals) : 0;
  }
  const float scale = static_cast<float>(context.experts) / static_cast<float>(std::max(1, context.tokens.counted()));
  for (float& share : f) share *= scale;
  return f;
}

}  // namespace

L1Adaptive L1Adaptive::read(Arguments& arguments) {
  L1Adaptive word;
  word.k = static_cast<float>(arguments.number("k", 1e-3, 4096));
  word.lambda = static_cast<float>(arguments.number("lambda", 1e-20, 1000, 1e-8));
  word.factor = static_cast<float>(arguments.number("factor", 1, 10, 1.2));
  return word;
}

std::string L1Adaptive::text() const {
  return written(kName, {written(k), unless("lambda", lambda, 1e-8f), unless("factor", factor, 1.2f)});
}

std::string L1Adaptive::misfit(int experts, int) const {
  return k > static_cast<float>(experts) ? "a token cannot have " + written(k) + " of them" : "";
}

double L1Adaptive::loss(const Context& context, const Routing& routing) const {
  const std::vector<float> price = prices(context, routing);
  const Matrix<const float> z = routing.scores(context.experts);
  double total = 0;
  for (int t = 0; t < z.rows; ++t) {
    if (!context.tokens.counts(t)) continue;
    float row = 0;
    for (int e = 0; e < z.cols; ++e) row += price[static_cast<size_t>(e)] * std::max(z[t][e], 0.0f);
    total += static_cast<double>(row);
  }
  return static_cast<double>(context.state[0]) * total;
}

// dz_te = lambda E f_e / N where z_te > 0.
void L1Adaptive::backward(const Context& context, const Routing& routing, const BalanceGradient& gradient) const {
  const std::vector<float> price = prices(context, routing);
  const Matrix<const float> z = routing.scores(context.experts);
  const float scale = gradient.scale * context.state[0];
  for (int t = 0; t < z.rows; ++t) {
    if (!context.tokens.counts(t)) continue;
    for (int e = 0; e < z.cols; ++e)
      if (z[t][e] > 0) gradient.dz[t][e] += scale * price[static_cast<size_t>(e)];
  }
}

void L1Adaptive::observe(const Context& context, const Routing& routing, std::span<float> sums) const {
  sums[0] += static_cast<float>(context.tokens.counted());
  sums[1] += static_cast<float>(std::ranges::count_if(routing.proposed, [](int32_t e) { return e >= 0; }));
}

// lambda *= factor ^ sign(target sparsity - sparsity), the sparsity being 1 - (experts of a token) / E.
void L1Adaptive::update(std::span<const float> sums, std::span<float> state) const {
  if (sums[0] <= 0) return;
  const float active = sums[1] / sums[0];
  const float next = active > k ? state[0] * factor : active < k ? state[0] / factor : state[0];
  state[0] = std::clamp(next, kLeast, kMost);
}

}  // namespace choir::moe
