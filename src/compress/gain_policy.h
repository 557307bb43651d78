// What becomes of the gains, and of a dropped expert's answer, when a layer keeps some experts alone.
#pragma once

#include "compress/mixture.h"
#include "compress/record.h"

namespace choir::compress {

enum class GainPolicy {
  kReroute,      // the layer's own rule over the kept experts: the published one
  kOriginalSum,  // the same choice, divided by what the full layer divides by; evaluated alone, no model has it
  kDrop,         // the choice and gains of the full layer, a dropped expert answers 0
  kNovice,       // the same, a dropped expert answers a constant
};

// A layer with the experts of kept[e] != 0 under one policy. Views: record and spans must outlive it.
struct PolicyCase {
  const LayerRecord& record;
  std::span<const uint8_t> kept;  // [E]
  GainPolicy policy = GainPolicy::kReroute;
  std::span<const double> weight{};  // [N] of each token's squared error; empty: all ones

  double weight_of(int token) const { return weight.empty() ? 1 : weight[static_cast<size_t>(token)]; }
};

// The kept experts that a token uses, with their gains b (docs/compress.md, C50). Under kNovice its constants are not
// among them.
Choice policy_choice(const PolicyCase& c, int token);

// J = sum over tokens of weight_t |z_t - z'_t|^2, exact (C10). Not for kNovice: the record has no products with
// constants; run the layer again (layer_run.h).
double policy_loss(const PolicyCase& c);

// Which experts of a layer stay, and how.
struct KeptLayer {
  std::vector<int> kept;  // ascending
  GainPolicy policy = GainPolicy::kReroute;
  // [E*D], of kNovice: LayerRecord::gained_mean, the least-squares constant of each expert by itself, or ::mean.
  std::span<const double> constants{};
};

// The model whose layers are as `layers` [L] says. Under kDrop and kNovice the router keeps all its rows, the kept
// experts first, and the dropped ones become zero experts or novices behind them; of equal keys the kept expert then
// comes first. Shares the experts' tensors. Throws Error (usage) for kOriginalSum, and for kDrop and kNovice within
// groups, whose neighbours would change; (input) for a router that experts cannot be taken from.
Model with_policies(const Model& model, std::span<const KeptLayer> layers);

// kept[e] != 0 for the experts listed.
std::vector<uint8_t> flags_of(const std::vector<int>& kept, int experts);

}  // namespace choir::compress
