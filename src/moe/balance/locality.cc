#include "moe/balance/locality.h"

#include <algorithm>
#include <cmath>

namespace choir::moe {
namespace {

// J and J*, each [nodes * E].
struct Joint {
  std::vector<double> now, home;
};

Joint joint_of(const Context& context, const Routing& routing, double eps) {
  const Tokens& tokens = context.tokens;
  const int experts = context.experts, nodes = tokens.nodes;
  const Matrix<const float> p = routing.probabilities(experts);
  Joint joint{std::vector<double>(static_cast<size_t>(nodes) * static_cast<size_t>(experts)), {}};
  joint.home.resize(joint.now.size());
  std::vector<double> here(static_cast<size_t>(nodes));
  std::vector<int> held(static_cast<size_t>(nodes));
  const double share = 1.0 / std::max(1, tokens.counted());
  for (int t = 0; t < tokens.rows(); ++t) {
    if (!tokens.counts(t)) continue;
    const auto a = static_cast<size_t>(tokens.node[static_cast<size_t>(t)]);
    here[a] += share;
    for (int e = 0; e < experts; ++e) joint.now[a * experts + e] += share * static_cast<double>(p[t][e]);
  }
  for (int e = 0; e < experts; ++e) ++held[static_cast<size_t>(node_of_expert(e, experts, nodes))];
  for (size_t a = 0; a < here.size(); ++a)
    for (int e = 0; e < experts; ++e) {
      const bool mine = node_of_expert(e, experts, nodes) == static_cast<int>(a);
      const double target = held[a] == 0 ? 1.0 / experts : (1 - eps) * mine / std::max(1, held[a]) + eps / experts;
      joint.home[a * experts + e] = here[a] * target;
    }
  return joint;
}

}  // namespace

Locality Locality::read(Arguments& arguments) {
  Locality word;
  word.mu = static_cast<float>(arguments.number("mu", 0, 1000));
  word.eps = static_cast<float>(arguments.number("eps", 1e-6, 0.999, 0.01));
  return word;
}

double Locality::loss(const Context& context, const Routing& routing) const {
  if (context.tokens.nodes < 2) return 0;
  const Joint joint = joint_of(context, routing, static_cast<double>(eps));
  double total = 0;
  for (size_t i = 0; i < joint.now.size(); ++i)
    if (joint.now[i] > 0) total += joint.now[i] * std::log(joint.now[i] / joint.home[i]);
  return static_cast<double>(mu) * total;
}

// d loss / d p_te = mu / N (log(J / J*) + 1) at the token's node; the 1 vanishes in the softmax backward:
// dz_te = mu / N p_te (l_e - sum_j p_tj l_j) with l = log(J / J*).
void Locality::backward(const Context& context, const Routing& routing, const BalanceGradient& gradient) const {
  const Tokens& tokens = context.tokens;
  if (tokens.nodes < 2) return;
  const Joint joint = joint_of(context, routing, static_cast<double>(eps));
  std::vector<float> pull(joint.now.size());
  for (size_t i = 0; i < pull.size(); ++i)
    pull[i] = joint.now[i] > 0 ? static_cast<float>(std::log(joint.now[i] / joint.home[i])) : 0;
  const Matrix<const float> p = routing.probabilities(context.experts);
  const float scale = gradient.scale * mu / static_cast<float>(std::max(1, tokens.counted()));
  for (int t = 0; t < tokens.rows(); ++t) {
    if (!tokens.counts(t)) continue;
    const float* l = pull.data() + static_cast<size_t>(tokens.node[static_cast<size_t>(t)]) * context.experts;
    float mean = 0;
    for (int e = 0; e < context.experts; ++e) mean += p[t][e] * l[e];
    for (int e = 0; e < context.experts; ++e) gradient.dz[t][e] += scale * p[t][e] * (l[e] - mean);
  }
}

}  // namespace choir::moe
