// The differentiable half of a router over one scalar: scores, weights and losses, for choices made elsewhere.
#pragma once

#include <cmath>
#include <utility>
#include <vector>

#include "moe/reference/losses.h"

namespace choir::tests {

struct RouterSpec {
  enum class Score { kLinear, kGrap, kGrapCosine, kGrapLearnt, kDenseCosine } score = Score::kLinear;
  enum class Weigh { kChosen, kSoftmax, kRenormalised, kSigmoidNorm } weigh = Weigh::kSoftmax;
  bool residual = false;
  double scale = 1;                           // of kSigmoidNorm
  double load = 0, z_loss = 0, locality = 0;  // weights of the losses
  std::vector<size_t> node = {};              // of each token; two nodes
  int state = 0, state_of_each = 0;           // numbers that no formula here reads: state + state_of_each E

  // Rows and columns of what stands in a file: the gate, then the state.
  std::vector<std::pair<int, int>> tensors(int experts, int width) const {
    std::vector<std::pair<int, int>> list;
    if (score == Score::kLinear || score == Score::kDenseCosine) list.emplace_back(experts, width);
    if (score == Score::kGrapLearnt) list.emplace_back(1, width);
    if (residual) list.emplace_back(experts, experts);
    if (const int size = state + state_of_each * experts; size > 0) list.emplace_back(1, size);
    return list;
  }
};

// Proposals and what was kept of them (N,K), -1 for none.
struct FixedChoices {
  std::vector<int32_t> proposed, chosen;
};

template <class S>
struct ReferenceRouting {
  std::vector<S> scores, weights;  // (N,E), (N,K)
  S balance = 0;
};

struct RoutedLayer {
  const FixedChoices& choices;
  size_t experts;
};

template <class S>
std::vector<S> scores_as(const RouterSpec& spec, const std::vector<S>& x, const std::vector<std::vector<S>>& gate,
                         size_t width, size_t experts) {
  namespace reference = moe::reference;
  const double kappa = std::sqrt(static_cast<double>(width));
  switch (spec.score) {
    case RouterSpec::Score::kGrap: return reference::grap(x, width, experts, 0);
    case RouterSpec::Score::kGrapCosine: return reference::grap_cosine(x, width, experts, kappa);
    case RouterSpec::Score::kGrapLearnt: return reference::grap_learned(x, gate[0], experts, kappa);
    case RouterSpec::Score::kDenseCosine: return reference::dense_cosine(x, gate[0], width, kappa);
    default: return reference::linear(x, gate[0], width);
  }
}

template <class S>
std::vector<S> weights_as(const RouterSpec& spec, const std::vector<S>& z, const moe::reference::Choices& c) {
  namespace reference = moe::reference;
  switch (spec.weigh) {
    case RouterSpec::Weigh::kChosen: return reference::chosen_weights(z, c.chosen, c.experts, c.k);
    case RouterSpec::Weigh::kRenormalised: return reference::renormalised_weights(z, c);
    case RouterSpec::Weigh::kSigmoidNorm: return reference::sigmoid_norm_weights(z, c, spec.scale);
    default: return reference::softmax_weights(z, c);
  }
}

// x (N,D); `before`: the scores of the layer before, empty for the first.
template <class S>
ReferenceRouting<S> route_as(const RouterSpec& spec, const std::vector<S>& x, const std::vector<std::vector<S>>& gate,
                             const std::vector<S>& before, const RoutedLayer& layer) {
  namespace reference = moe::reference;
  const size_t n = spec.node.size(), width = x.size() / n, experts = layer.experts;
  ReferenceRouting<S> out;
  out.scores = scores_as(spec, x, gate, width, experts);
  if (spec.residual && !before.empty()) {
    const std::vector<S> carried = reference::linear(before, gate[1], experts);
    for (size_t i = 0; i < carried.size(); ++i) out.scores[i] += carried[i];
  }
  const reference::Choices c{layer.choices.proposed, layer.choices.chosen, experts, layer.choices.chosen.size() / n};
  out.weights = weights_as(spec, out.scores, c);
  if (spec.load > 0) out.balance += reference::load(out.scores, c.proposed, {.experts = experts, .alpha = spec.load});
  if (spec.z_loss > 0) out.balance += reference::z_loss(out.scores, experts, spec.z_loss);
  if (spec.locality > 0) {
    reference::Locality l{experts, 2, spec.node, {}, static_cast<double>(0.01f), spec.locality, {}};
    for (size_t e = 0; e < experts; ++e) l.node_of_expert.push_back(e * 2 / experts);
    out.balance += reference::locality(out.scores, l);
  }
  return out;
}

}  // namespace choir::tests
