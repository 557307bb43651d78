#include "moe/balance/entropy.h"

#include <algorithm>

namespace choir::moe {
namespace {

// H(p_t) = -sum_e p_te log p_te with log p = z - log sum_e exp(z); 0 log 0 = 0.
class Row {
 public:
  Row(const Context& context, const Routing& routing, int t)
      : z_(routing.scores(context.experts)[t]),
        p_(routing.probabilities(context.experts)[t]),
        log_sum_(routing.log_sum[static_cast<size_t>(t)]) {
    for (int e = 0; e < context.experts; ++e) entropy_ -= p_[e] > 0 ? p_[e] * log_p(e) : 0;
  }
  float p(int e) const { return p_[e]; }
  float log_p(int e) const { return z_[e] - log_sum_; }
  float entropy() const { return entropy_; }

 private:
  const float *z_, *p_;
  float log_sum_, entropy_ = 0;
};

}  // namespace

Entropy Entropy::read(Arguments& arguments) { return {static_cast<float>(arguments.number("c", 0, 1000))}; }

double Entropy::loss(const Context& context, const Routing& routing) const {
  double total = 0;
  for (int t = 0; t < context.tokens.rows(); ++t)
    if (context.tokens.counts(t)) total += static_cast<double>(Row(context, routing, t).entropy());
  return static_cast<double>(c) * total / std::max(1, context.tokens.counted());
}

// dz_te = -c / N p_te (log p_te + H(p_t)).
void Entropy::backward(const Context& context, const Routing& routing, const BalanceGradient& gradient) const {
  const float scale = gradient.scale * c / static_cast<float>(std::max(1, context.tokens.counted()));
  each_token(context, [&](int t) {
    if (!context.tokens.counts(t)) return;
    const Row row(context, routing, t);
    for (int e = 0; e < context.experts; ++e)
      if (row.p(e) > 0) gradient.dz[t][e] -= scale * row.p(e) * (row.log_p(e) + row.entropy());
  });
}

}  // namespace choir::moe
