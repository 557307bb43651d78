#include "compress/gain_policy.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "compress/choose.h"
#include "compress/prune.h"

namespace choir::compress {
namespace {

Choice survivors(const PolicyCase& c, int token) {
  const Choice own = own_choice(c.record, token);
  Choice left;
  for (size_t i = 0; i < own.rank.size(); ++i) {
    if (!c.kept[static_cast<size_t>(c.record.ranking(token)[static_cast<size_t>(own.rank[i])])]) continue;
    left.rank.push_back(own.rank[i]);
    left.gain.push_back(own.gain[i]);
  }
  return left;
}

// b_j = a_i p_j / p_i for any i that the full layer chooses: both have its divisor.
Choice by_original_sum(const PolicyCase& c, int token) {
  const auto p = [&](int rank) {
    return static_cast<double>(c.record.gains(token)[c.record.ranking(token)[static_cast<size_t>(rank)]]);
  };
  const Choice own = own_choice(c.record, token);
  Choice choice = choose(c.record, token, c.kept);
  size_t most = 0;
  for (size_t i = 1; i < own.rank.size(); ++i)
    if (p(own.rank[i]) > p(own.rank[most])) most = i;
  const double factor = own.gain[most] / p(own.rank[most]);
  for (size_t i = 0; i < choice.rank.size(); ++i) choice.gain[i] = p(choice.rank[i]) * factor;
  return choice;
}

void check_policy(const Model& model, int l, const KeptLayer& layer) {
  const std::string where = "layer " + std::to_string(l);
  const auto rule = model.router(l).subset_rule();
  if (!rule || model.config().layers[static_cast<size_t>(l)].idle() > 0)
    base::input_error("the router is not one that experts can be taken from: " + model.router(l).expression(), where,
                      "pruning is made for linear > top_k or groups > all");
  if (layer.policy == GainPolicy::kOriginalSum)
    base::usage_error("no router divides by the gains of experts that are gone", where,
                      "this policy can be evaluated, not written");
  if (layer.policy != GainPolicy::kReroute && rule->groups > 1)
    base::usage_error("experts within groups cannot be moved behind the others", where, "re-route instead");
}

// `config` is that of the layer with the kept experts.
Mixture kept_mixture(const Model& model, int l, const KeptLayer& layer, const model::LayerConfig& config) {
  Mixture mixture(model, l);
  const int experts = mixture.config.experts;
  mixture.config = config;
  mixture.keep_experts(layer.kept);
  std::vector<int> order = layer.kept;
  const std::vector<int> dropped = others(layer.kept, experts);
  if (layer.policy != GainPolicy::kReroute) order.insert(order.end(), dropped.begin(), dropped.end());
  if (static_cast<int>(layer.kept.size()) < experts) mixture.order_gate(order);
  const auto count = static_cast<int>(dropped.size());
  if (layer.policy == GainPolicy::kDrop) mixture.config.zero_experts = count;
  if (layer.policy != GainPolicy::kNovice) return mixture;
  const auto d = static_cast<size_t>(model.config().width);
  CHOIR_CHECK(layer.constants.size() == d * static_cast<size_t>(experts), "a constant for each expert");
  mixture.config.novice_experts = count;
  for (const int e : dropped) {
    const auto v = layer.constants.subspan(static_cast<size_t>(e) * d, d);
    const std::vector<float> narrow(v.begin(), v.end());
    mixture.tensors.idle.novice.push_back(mixture.made(tensor::DType::kF32, {narrow.data(), 1, static_cast<int>(d)}));
  }
  return mixture;
}

}  // namespace

std::vector<uint8_t> flags_of(const std::vector<int>& kept, int experts) {
  std::vector<uint8_t> flags(static_cast<size_t>(experts), 0);
  for (const int e : kept) flags[static_cast<size_t>(e)] = 1;
  return flags;
}

Choice policy_choice(const PolicyCase& c, int token) {
  if (c.policy == GainPolicy::kReroute) return choose(c.record, token, c.kept);
  return c.policy == GainPolicy::kOriginalSum ? by_original_sum(c, token) : survivors(c, token);
}

double policy_loss(const PolicyCase& c) {
  CHOIR_CHECK(c.policy != GainPolicy::kNovice, "the record has no products with constants");
  double loss = 0;
  for (int t = 0; t < c.record.tokens(); ++t)
    loss += c.weight_of(t) * squared_error(c.record, t, own_choice(c.record, t), policy_choice(c, t));
  return loss;
}

Model with_policies(const Model& model, std::span<const KeptLayer> layers) {
  CHOIR_CHECK(static_cast<int>(layers.size()) == model.config().depth(), "one choice for each layer");
  std::vector<std::vector<int>> keep;
  for (const KeptLayer& layer : layers) keep.push_back(layer.kept);
  const model::Config config = pruned_config(model.config(), keep);
  Model result = model;
  for (int l = 0; l < config.depth(); ++l) {
    const KeptLayer& layer = layers[static_cast<size_t>(l)];
    if (model.config().layers[static_cast<size_t>(l)].dense()) continue;
    check_policy(model, l, layer);
    result = kept_mixture(model, l, layer, config.layers[static_cast<size_t>(l)]).in(result, l);
  }
  return result;
}

}  // namespace choir::compress
