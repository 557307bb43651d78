// What tests of balance words share: the gradient that a word adds, and a case with choices and gates.
#pragma once

#include "moe/balance/load.h"
#include "moe/reference/words.h"

namespace choir::moe::reference {

struct BalanceGradients {
  std::vector<float> dz, dweight;
  std::vector<std::vector<float>> tensors;
};

// What backward adds, by calling it on ones; `scale` as BalanceGradient has it.
template <class Word>
BalanceGradients gradients_of(const Word& word, Case& c, float scale = 1) {
  BalanceGradients g{std::vector<float>(static_cast<size_t>(c.rows) * c.experts, 1.0f),
                     std::vector<float>(c.routing.plan.token.size(), 1.0f),
                     {}};
  std::vector<Matrix<float>> views;
  for (const auto& t : c.tensor) g.tensors.emplace_back(t.size(), 1.0f);
  for (size_t i = 0; i < c.tensor.size(); ++i)
    views.push_back({g.tensors[i].data(), c.shape[i].first, c.shape[i].second});
  const auto list = c.weights();
  word.backward(c.context(list), c.routing, {matrix(g.dz, c.experts), g.dweight, views, scale});
  const auto less_one = [](std::vector<float>& v) {
    for (float& d : v) d -= 1;
  };
  less_one(g.dz);
  less_one(g.dweight);
  for (auto& t : g.tensors) less_one(t);
  return g;
}

// Adding to 1 rounds to 6e-8, so small gradients are asked for times `scale` and compared as such.
template <class Got>
bool close(const std::vector<double>& want, const Got& got, double scale = 1) {
  double most = 0, off = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    most = std::max(most, std::abs(want[i] * scale));
    off = std::max(off, std::abs(want[i] * scale - static_cast<double>(got[i])));
  }
  return want.size() == std::size(got) && off <= 1e-5 * most + 1.5e-7;
}

}  // namespace choir::moe::reference
