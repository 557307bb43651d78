// A directory with a model's own numbers beside its checkpoint, and everything that a forward leaves behind held
// against them: the oracles of the models' own implementation, and tests/golden.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "io/safetensors.h"
#include "model/forward.h"
#include "runtime/session.h"
#include "tests/random_model.h"

namespace choir::tests {

using model::Model;

inline constexpr double kLogits = 2e-4, kRouter = 1e-4, kWeights = 1e-5;  // the bounds of the reference's README

template <class T>
inline std::vector<T> read(const io::SafetensorsFile& file, const std::string& name) {
  const io::Tensor* tensor = file.find(name);
  REQUIRE_MESSAGE(tensor, name);
  REQUIRE(tensor->bytes.size() == tensor->elements() * sizeof(T));
  std::vector<T> values(tensor->elements());
  std::memcpy(values.data(), tensor->bytes.data(), tensor->bytes.size());
  return values;
}

inline std::vector<int32_t> read_ids(const io::SafetensorsFile& file, const std::string& name) {
  const auto wide = read<int64_t>(file, name);
  return {wide.begin(), wide.end()};
}

inline double distance(std::span<const float> a, std::span<const float> b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    most = d <= most ? most : d;  // a NaN comes through
  }
  return most;
}

// Expert to weight of each token, whatever the order of the choices.
using Chosen = std::vector<std::map<int64_t, float>>;

inline Chosen chosen_of(const moe::Plan& plan) {
  Chosen chosen(static_cast<size_t>(plan.tokens));
  for (int e = 0; e < plan.experts(); ++e)
    for (int i = plan.offset[e]; i < plan.offset[e + 1]; ++i) chosen[plan.token[i]][e] = plan.weight[i];
  return chosen;
}

inline Chosen chosen_of(const std::vector<int64_t>& experts, const std::vector<float>& weights, size_t choices) {
  Chosen chosen(experts.size() / choices);
  for (size_t i = 0; i < experts.size(); ++i) chosen[i / choices][experts[i]] = weights[i];
  return chosen;
}

inline void compare(const Chosen& ours, const Chosen& theirs) {
  REQUIRE(ours.size() == theirs.size());
  size_t same = 0;
  double worst = 0;
  for (size_t t = 0; t < ours.size(); ++t) {
    bool equal = ours[t].size() == theirs[t].size();
    for (const auto& [expert, weight] : theirs[t]) {
      const auto found = ours[t].find(expert);
      equal = equal && found != ours[t].end();
      if (equal) worst = std::max(worst, std::abs(static_cast<double>(found->second) - static_cast<double>(weight)));
    }
    same += equal;
  }
  CHECK(same == ours.size());
  CHECK(worst <= kWeights);
}

// Everything that a forward leaves behind: hidden states, routings, logits, piece by piece.
struct Observed {
  std::vector<std::vector<float>> hidden, router_logits;
  std::vector<Chosen> chosen;
  std::vector<float> logits;
};

inline std::vector<float> copy(tensor::Matrix<float> m) {
  return {m.data, m.data + static_cast<size_t>(m.rows) * static_cast<size_t>(m.cols)};
}

inline Observed observe(const Model& model, std::span<const int32_t> ids, int sequences) {
  base::Threads threads(2);
  const int rows = static_cast<int>(ids.size()), length = rows / sequences, d = model.config().width;
  std::vector<kernels::Sequence> places;
  for (int s = 0; s < sequences; ++s) places.push_back({s * length, length, 0, s * length});
  const model::ForwardPass pass(model, {ids, places}, threads);
  const size_t area = static_cast<size_t>(rows) * static_cast<size_t>(d);
  const tensor::Buffer<float> h(area), middle(area), normed(area);
  const tensor::Buffer<float> logits(static_cast<size_t>(rows) * static_cast<size_t>(model.config().vocab));
  model::BlockActivations block;
  Observed seen;
  pass.embed(h.matrix(rows, d));
  seen.hidden.push_back(copy(h.matrix(rows, d)));
  for (int l = 0; l < model.config().depth(); ++l) {
    pass.attend(l, h.matrix(rows, d), nullptr, block, middle.matrix(rows, d));
    pass.mix(l, middle.matrix(rows, d), {}, block, h.matrix(rows, d));
    seen.hidden.push_back(copy(h.matrix(rows, d)));
    const bool dense = model.config().layers[l].dense();
    seen.router_logits.push_back(dense ? std::vector<float>()
                                       : copy(block.moe.routing.scores(model.config().layers[l].experts)));
    seen.chosen.push_back(chosen_of(block.moe.routing.plan));
  }
  model::HeadActivations head;
  pass.head(h.matrix(rows, d), normed.matrix(rows, d), head, logits.matrix(rows, model.config().vocab));
  seen.hidden.back() = copy(normed.matrix(rows, d));  // theirs is what the head receives
  seen.logits = copy(logits.matrix(rows, model.config().vocab));
  return seen;
}

inline void compare_batch(const Model& model, const io::SafetensorsFile& reference, const std::string& batch) {
  const auto ids = read_ids(reference, batch + ".input_ids");
  const int sequences = static_cast<int>(reference.find(batch + ".input_ids")->shape[0]);
  const Observed seen = observe(model, ids, sequences);
  CHECK(distance(seen.logits, read<float>(reference, batch + ".logits")) <= kLogits);
  CHECK(seen.logits == all_logits(model, ids, sequences));
  for (size_t i = 0; i < seen.hidden.size(); ++i)
    CHECK(distance(seen.hidden[i], read<float>(reference, batch + ".hidden." + std::to_string(i))) <= kLogits);
  for (size_t l = 0; l < seen.chosen.size(); ++l) {
    if (model.config().layers[l].dense()) continue;
    const std::string layer = "." + std::to_string(l);
    CHECK(distance(seen.router_logits[l], read<float>(reference, batch + ".router_logits" + layer)) <= kRouter);
    compare(seen.chosen[l], chosen_of(read<int64_t>(reference, batch + ".topk_idx" + layer),
                                      read<float>(reference, batch + ".topk_weight" + layer),
                                      static_cast<size_t>(model.config().layers[l].top_k)));
  }
}

inline void compare_greedy(const Model& model, const io::SafetensorsFile& reference) {
  base::Threads threads(2);
  const auto prompt = read_ids(reference, "G.prompt"), tokens = read_ids(reference, "G.tokens");
  const auto step_logits = read<float>(reference, "G.step_logits");
  const auto vocab = static_cast<size_t>(model.config().vocab);
  runtime::Session session(model, threads);
  const int count = static_cast<int>(tokens.size());
  CHECK(session.generate(prompt, {.most = count, .sampling = {}, .ignore_end = true}).ids == tokens);
  session.rewind(0);
  std::span<const float> logits = session.feed(prompt);
  for (size_t i = 0; i < tokens.size(); ++i) {
    CHECK(distance(logits, std::span(step_logits).subspan(i * vocab, vocab)) <= kLogits);
    logits = session.feed({&tokens[i], 1});
  }
}

}  // namespace choir::tests
