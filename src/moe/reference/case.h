// What a test of one word needs around it: tokens, tensors, state, and the routing that words read and fill.
#pragma once

#include <string>

#include "moe/reference/data.h"
#include "moe/router.h"

namespace choir::moe::reference {

// Owns all numbers; context() looks into them. Change what a test wants otherwise before asking for a context.
struct Case {
  int rows = 0, width = 0, experts = 0, idle = 0, zero = 0, nodes = 1;
  std::vector<float> x, previous, state, shares;
  std::vector<std::vector<float>> tensor;  // of the score word
  std::vector<std::pair<int, int>> shape;  // rows and columns of each
  std::vector<int32_t> id, sequence, node;
  std::vector<uint8_t> padding;
  Rule rule = Rule::kTraining;
  uint64_t seed = 1;
  base::Threads threads{2};
  Routing routing;

  Case(int n, int d, int e, uint64_t from = 1, double scale = 1)
      : rows(n),
        width(d),
        experts(e),
        x(narrow(random(static_cast<size_t>(n) * static_cast<size_t>(d), scale, from))) {}

  // Gives the tensors that a router or a score word asks for, normal with deviation 1.
  template <class Maker>
  void fill_tensors(const Maker& maker, uint64_t from = 100) {
    tensor.clear();
    shape.clear();
    for (const GateTensor& t : maker.tensors(experts, width)) {
      tensor.push_back(narrow(random(static_cast<size_t>(t.rows) * static_cast<size_t>(t.cols), 1, from++)));
      shape.emplace_back(t.rows, t.cols);
    }
  }

  std::vector<Weight> weights() const {
    std::vector<Weight> list;
    for (size_t i = 0; i < tensor.size(); ++i)
      list.emplace_back(Matrix<const float>(tensor[i].data(), shape[i].first, shape[i].second));
    return list;
  }

  // `weights` must outlive the context.
  Context context(std::span<const Weight> list = {}) {
    Tokens tokens;
    tokens.x = {x.data(), rows, width};
    tokens.id = id;
    tokens.sequence = sequence;
    tokens.node = node;
    tokens.nodes = nodes;
    tokens.padding = padding;
    if (!previous.empty()) tokens.previous = {previous.data(), rows, experts};
    return {.tokens = tokens,
            .experts = experts,
            .idle = idle,
            .zero = zero,
            .tensors = list,
            .state = state,
            .shares = shares,
            .rule = rule,
            .seed = seed,
            .threads = threads};
  }

  // Sets the scores by hand, with their softmax, as if a score word had given them.
  void set_scores(const std::vector<float>& z) {
    routing.score = Buffer<float>(z.size());
    routing.probability = Buffer<float>(z.size());
    routing.log_sum = Buffer<float>(static_cast<size_t>(rows));
    std::copy(z.begin(), z.end(), routing.score.data());
    for (int t = 0; t < rows; ++t) {
      double most = -HUGE_VAL, sum = 0;
      const auto at = [&](int e) { return static_cast<double>(z[static_cast<size_t>(t) * experts + e]); };
      for (int e = 0; e < experts; ++e) most = std::max(most, at(e));
      for (int e = 0; e < experts; ++e) sum += std::exp(at(e) - most);
      routing.log_sum[static_cast<size_t>(t)] = static_cast<float>(most + std::log(sum));
      for (int e = 0; e < experts; ++e)
        routing.probability[static_cast<size_t>(t) * experts + e] = static_cast<float>(std::exp(at(e) - most) / sum);
    }
  }

  // Sets the choices by hand: proposals, what was kept of them, and the Plan.
  void set_choices(const std::vector<int32_t>& proposed, const std::vector<int32_t>& chosen) {
    routing.proposed = proposed;
    routing.chosen = chosen;
    build_plan(chosen, rows, static_cast<int>(chosen.size()) / std::max(1, rows), experts, routing.plan);
  }
};

}  // namespace choir::moe::reference
