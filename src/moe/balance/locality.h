// balance "locality(mu)": mu KL(J || J*) draws tokens to the experts of their own node (LocMoE, arXiv 2401.13920,
// section 3.3). J is the joint distribution of source node and expert, J* the one where every token stays at home.
#pragma once

#include "moe/balance/load.h"

namespace choir::moe {

// The node that holds expert e: contiguous blocks of experts.
inline int node_of_expert(int e, int experts, int nodes) {
  return static_cast<int>(static_cast<int64_t>(e) * nodes / experts);
}

// Our reading, for the papers leave the distributions open: J(a,e) = mean over all tokens of p_te where t lives on a;
// J*(a,e) = N_a/N ((1 - eps) [e on a] / E_a + eps / E), and N_a/N / E for a node without experts. 0 where there is one
// node.
struct Locality {
  static constexpr const char* kName = "locality";
  float mu = 0, eps = 0.01f;

  static Locality read(Arguments& arguments);
  std::string text() const { return written(kName, {written(mu), unless("eps", eps, 0.01f)}); }
  bool reads_probability() const { return true; }
  double loss(const Context& context, const Routing& routing) const;
  void backward(const Context& context, const Routing& routing, const BalanceGradient& gradient) const;
};

}  // namespace choir::moe
