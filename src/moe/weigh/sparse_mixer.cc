#include "moe/weigh/sparse_mixer.h"

#include <algorithm>
#include <cmath>

#include "moe/weigh/slots.h"

namespace choir::moe {
namespace {

// One round of a token: the softmax over the logits near that of the round's expert.
class Round {
 public:
  // `out` is the expert of the round before, or -1.
  Round(std::span<const float> z, int32_t best, int32_t out, float eps)
      : z_(z), most_(z[static_cast<size_t>(best)]), eps_(eps), out_(out) {
    for (size_t j = 0; j < z.size(); ++j) sum_ += term(j);
  }
  float operator[](size_t j) const { return term(j) / sum_; }

 private:
  // Where the quotient is 0 / 0, or a logit is -infinity, the comparison is with NaN: such a one is not far.
  bool is_far(size_t j) const { return (most_ - z_[j]) / std::max(std::abs(z_[j]), most_) > 2 * eps_; }
  float term(size_t j) const { return static_cast<int32_t>(j) == out_ || is_far(j) ? 0 : std::exp(z_[j] - most_); }

  std::span<const float> z_;
  float most_, eps_, sum_ = 0;
  int32_t out_;
};

// Calls body(edge, expert, its round) for each choice of token t.
template <class Body>
void each_round(const Context& context, const Routing& routing, float eps, int t, const Body& body) {
  int32_t out = -1;
  each_edge(routing, t, [&](int32_t i, int32_t e) {
    body(i, e, Round(routing.scores(context.experts).row(t), e, out, eps));
    out = e;
  });
}

}  // namespace

SparseMixer SparseMixer::read(Arguments& arguments) {
  return {static_cast<float>(arguments.number("eps", 0, 1, 0.01))};
}

// g_e = p_e of its round.
void SparseMixer::forward(const Context& context, Routing& routing) const {
  each_token(context, [&](int t) {
    each_round(context, routing, eps, t,
               [&](int32_t i, int32_t e, const Round& p) { routing.plan.weight[i] = p[static_cast<size_t>(e)]; });
  });
}

// dz_j += g_e dg_e ([j = e] - p_j) for each round.
void SparseMixer::backward(const Context& context, const Routing& routing, std::span<const float> dweight,
                           Matrix<float> dz) const {
  each_token(context, [&](int t) {
    each_round(context, routing, eps, t, [&](int32_t i, int32_t e, const Round& p) {
      const float pull = routing.plan.weight[i] * dweight[i];
      dz[t][e] += pull;
      for (int j = 0; j < context.experts; ++j) dz[t][j] -= pull * p[static_cast<size_t>(j)];
    });
  });
}

}  // namespace choir::moe
