// What tests of score words share: forward and backward through the tensors of a case.
#pragma once

#include "moe/reference/words.h"
#include "moe/score/linear.h"

namespace choir::moe::reference {

template <class Word>
std::vector<float> score_of(const Word& word, Case& c) {
  std::vector<float> z(static_cast<size_t>(c.rows) * c.experts);
  const auto list = c.weights();
  word.forward(c.context(list), matrix(z, c.experts));
  return z;
}

struct WordGradients {
  std::vector<float> x;
  std::vector<std::vector<float>> tensors;
};

// Keeps the scores in c.routing, as the router does.
template <class Word>
WordGradients backward_of(const Word& word, Case& c, const std::vector<float>& dz) {
  const std::vector<float> z = score_of(word, c);
  c.routing.score = Buffer<float>(z.size());
  std::ranges::copy(z, c.routing.score.data());
  c.routing.plan.tokens = c.rows;
  WordGradients g{std::vector<float>(c.x.size()), {}};
  std::vector<Matrix<float>> views;
  for (const auto& t : c.tensor) g.tensors.emplace_back(t.size());
  for (size_t i = 0; i < c.tensor.size(); ++i)
    views.push_back({g.tensors[i].data(), c.shape[i].first, c.shape[i].second});
  const auto list = c.weights();
  word.backward(c.context(list), c.routing, matrix(dz, c.experts), {matrix(g.x, c.width), views, {}});
  return g;
}

inline std::vector<double> widened(const std::vector<float>& v) { return {v.begin(), v.end()}; }

}  // namespace choir::moe::reference
