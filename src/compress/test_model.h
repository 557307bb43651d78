// For tests: small random models in memory, and a block of experts written as plain loops in double.
#pragma once

#include <cmath>
#include <memory>

#include "base/rng.h"
#include "compress/calibration.h"
#include "compress/choose.h"

namespace choir::compress {

// Owns the numbers that its model looks into.
struct TestModel {
  std::vector<tensor::Buffer<float>> numbers;
  std::unique_ptr<Model> model;

  explicit TestModel(const model::Config& config, uint64_t seed = 5) {
    base::Rng rng(seed);
    model::ModelTensors<tensor::Weight> tensors;
    model::visit_tensors(config, tensors, [&](const model::TensorInfo& info, tensor::Weight& weight) {
      numbers.emplace_back(static_cast<size_t>(info.rows) * static_cast<size_t>(info.cols));
      const float scale = 1.4f / std::sqrt(static_cast<float>(info.cols));
      for (float& v : numbers.back().span()) v = info.vector ? 1 + 0.1f * rng.normal() : scale * rng.normal();
      weight = {numbers.back().data(), tensor::DType::kF32, info.rows, info.cols};
    });
    if (config.tied) tensors.head = tensors.embedding;
    model = std::make_unique<Model>(config, std::move(tensors));
  }
};

inline model::Config small_config(int experts, int top_k, int layers) {
  model::Config config;
  config.family = "mixtral";
  config.width = 20;
  config.vocab = 31;
  config.attention = {2, 1, 10, 0};
  config.max_positions = 64;
  config.rope.theta = 1e4;
  config.norm_epsilon = 1e-5;
  for (int l = 0; l < layers; ++l) config.layers.push_back({experts, top_k, 12, {}, {}});
  return config;
}

inline std::vector<CalibrationBatch> random_batches(int count, int sequences, int length, int vocab,
                                                    uint64_t seed = 7) {
  base::Rng rng(seed);
  std::vector<CalibrationBatch> batches(static_cast<size_t>(count));
  for (CalibrationBatch& batch : batches) {
    batch.sequences = sequences;
    batch.length = length;
    for (int i = 0; i < sequences * length; ++i)
      batch.ids.push_back(static_cast<int32_t>(rng.below(static_cast<uint64_t>(vocab))));
  }
  return batches;
}

using Row = std::vector<double>;

inline Row plain_product(const tensor::Weight& w, const Row& x) {
  const auto* numbers = static_cast<const float*>(w.data);
  Row y(static_cast<size_t>(w.rows), 0.0);
  for (int i = 0; i < w.rows; ++i)
    for (int j = 0; j < w.cols; ++j) y[i] += static_cast<double>(numbers[i * w.cols + j]) * x[j];
  return y;
}

// w2 (silu(w1 x) * (w3 x)).
inline Row plain_expert(const moe::MoeTensors<tensor::Weight>& weights, int e, const Row& x) {
  Row hidden = plain_product(weights.w1[e], x);
  const Row up = plain_product(weights.w3[e], x);
  for (size_t i = 0; i < hidden.size(); ++i) hidden[i] = hidden[i] / (1 + std::exp(-hidden[i])) * up[i];
  return plain_product(weights.w2[e], hidden);
}

// The block with the logits of all but the kept experts at minus infinity: softmax, the best top_k, renormalised.
inline Row plain_block(const moe::MoeTensors<tensor::Weight>& weights, int top_k, ExpertSet kept, const Row& x) {
  Row probability = plain_product(weights.gate[0], x);
  for (size_t e = 0; e < probability.size(); ++e) probability[e] = (kept >> e & 1) ? std::exp(probability[e]) : 0;
  Row gain(probability.size(), 0.0), output(x.size(), 0.0);
  double sum = 0;
  for (int k = 0; k < top_k; ++k) {
    size_t best = 0;
    for (size_t e = 1; e < probability.size(); ++e)
      if (probability[e] > probability[best]) best = e;
    sum += gain[best] = probability[best];
    probability[best] = 0;
  }
  for (size_t e = 0; e < gain.size(); ++e) {
    if (gain[e] == 0) continue;
    const Row answer = plain_expert(weights, static_cast<int>(e), x);
    for (size_t d = 0; d < x.size(); ++d) output[d] += gain[e] / sum * answer[d];
  }
  return output;
}

inline std::vector<Row> as_rows(tensor::Matrix<const float> x) {
  std::vector<Row> rows;
  for (int t = 0; t < x.rows; ++t) rows.emplace_back(x.row(t).begin(), x.row(t).end());
  return rows;
}

// |Z - Z'|_F of one batch, the block run again.
inline double plain_loss(const moe::MoeTensors<tensor::Weight>& weights, int top_k, ExpertSet kept,
                         const std::vector<Row>& x, const std::vector<Row>& z) {
  double squares = 0;
  for (size_t t = 0; t < x.size(); ++t) {
    const Row output = plain_block(weights, top_k, kept, x[t]);
    for (size_t d = 0; d < output.size(); ++d) squares += (z[t][d] - output[d]) * (z[t][d] - output[d]);
  }
  return std::sqrt(squares);
}

}  // namespace choir::compress
