#include "train/parameters.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/profile.h"
#include "kernels/adamw.h"
#include "train/pattern.h"

namespace choir::train {
namespace {

using Role = model::TensorInfo::Role;
using Part = model::TensorInfo::Part;

// Turns rows, no more than columns, to right angles, each of the given length (Gram and Schmidt). Twice, for once
// leaves the rounding of rows that were nearly parallel.
void orthogonalize(Matrix<float> rows, double length) {
  const auto dot = [&](int a, int b) {
    double sum = 0;
    for (int j = 0; j < rows.cols; ++j) sum += static_cast<double>(rows[a][j]) * static_cast<double>(rows[b][j]);
    return sum;
  };
  for (int e = 0; e < rows.rows; ++e) {
    for (int before = 0; before < 2 * e; ++before) {
      const auto share = static_cast<float>(dot(e, before % e) / (length * length));
      for (int j = 0; j < rows.cols; ++j) rows[e][j] -= share * rows[before % e][j];
    }
    const auto scale = static_cast<float>(length / std::sqrt(dot(e, e)));
    for (float& v : rows.row(e)) v *= scale;
  }
}

}  // namespace

Parameters::Parameters(const Config& config, tensor::DType moments) : config_(config), moments_(0, moments) {
  size_t total = 0;
  ModelTensors<Weight> names;
  model::visit_tensors(config_, names, [&](const model::TensorInfo& info, Weight&) {
    const size_t size = static_cast<size_t>(info.rows) * static_cast<size_t>(info.cols);
    places_.push_back({info, total, size});
    total += (size + 15) / 16 * 16;  // every tensor begins on a vector
  });
  values_ = Buffer<float>(total);
  gradient_ = Buffer<float>(total);
  moments_ = Moments(total, moments);
  gradients_ = views(gradient_);
}

ModelTensors<Matrix<float>> Parameters::views(const Buffer<float>& block) const {
  ModelTensors<Matrix<float>> tensors;
  size_t next = 0;
  model::visit_tensors(config_, tensors, [&](const model::TensorInfo& info, Matrix<float>& numbers) {
    numbers = {block.data() + places_[next++].begin, info.rows, info.cols};
  });
  return tensors;
}

ModelTensors<Matrix<float>> Parameters::numbers() { return views(values_); }

ModelTensors<Weight> Parameters::weights() const {
  ModelTensors<Weight> tensors;
  size_t next = 0;
  model::visit_tensors(config_, tensors, [&](const model::TensorInfo& info, Weight& weight) {
    weight = {values_.data() + places_[next++].begin, tensor::DType::kF32, info.rows, info.cols};
  });
  return tensors;
}

void Parameters::initialize(uint64_t seed) {
  base::Rng rng(seed);
  const float onto_stream = 0.02f / std::sqrt(2.0f * static_cast<float>(config_.depth()));
  for (const Place& place : places_) {
    const std::span<float> values = values_.span().subspan(place.begin, place.size);
    const model::TensorInfo& info = place.info;
    const bool last = info.part == Part::kAttentionOut || info.part == Part::kDown;
    if (info.role == Role::kNorm)
      std::ranges::fill(values, 1.0f);
    else if (info.role != Role::kState)
      for (float& v : values)
        v = info.initial + (info.deviation > 0 ? rng.normal() * (last ? onto_stream : info.deviation) : 0);
    if (info.orthogonal)
      orthogonalize({values.data(), info.rows, info.cols},
                    static_cast<double>(info.deviation) * std::sqrt(static_cast<double>(info.cols)));
  }
  for (int l = 0; l < config_.depth(); ++l)
    if (const std::span<float> numbers = state(l); !numbers.empty())
      moe::parse_router(model::router_expression(config_, config_.layers[l]))
          .initial_state(config_.layers[l].routed(), numbers);
}

std::span<float> Parameters::state(int layer) const {
  const Matrix<float>& place = gradients_.blocks[layer].moe.state;
  if (!place.data) return {};
  return values_.span().subspan(static_cast<size_t>(place.data - gradient_.data()), static_cast<size_t>(place.cols));
}

void Parameters::freeze(const std::vector<std::string>& patterns) {
  for (const std::string& pattern : patterns) {
    bool matched = false;
    for (Place& place : places_) {
      const bool fits = matches(pattern, place.info.name);
      place.frozen = place.frozen || fits;
      matched = matched || fits;
    }
    if (!matched)
      base::input_error("no tensor matches \"" + pattern + "\"", "training configuration: freeze",
                        "names are like " + places_.front().info.name + ", * stands for any letters");
  }
}

bool Parameters::state_frozen(int layer) const {
  const float* state = gradients_.blocks[layer].moe.state.data;
  return std::ranges::any_of(
      places_, [&](const Place& place) { return place.frozen && gradient_.data() + place.begin == state; });
}

void Parameters::drop_frozen_gradients() {
  for (const Place& place : places_)
    if (place.frozen) std::ranges::fill(gradient_.span().subspan(place.begin, place.size), 0.0f);
}

double Parameters::gradient_norm(base::Threads& threads) const {
  const base::Operator op(threads, "gradient norm", base::moved_bytes, gradient_.span().size_bytes());
  return std::sqrt(kernels::sum_of_squares(gradient_.span(), threads));
}

std::optional<double> Parameters::gate_gradient_norm(int layer, base::Threads& threads) const {
  const std::vector<Matrix<float>>& gate = gradients_.blocks[layer].moe.gate;
  if (gate.empty()) return {};
  double sum = 0;
  for (const Matrix<float>& g : gate)
    sum += kernels::sum_of_squares({g.data, static_cast<size_t>(g.rows) * static_cast<size_t>(g.cols)}, threads);
  return std::sqrt(sum);
}

void Parameters::update(const TrainConfig& config, const Step& step, base::Threads& threads) {
  const size_t moments = moments_.first().size() + moments_.second().size();  // written too, as the values are
  const base::Operator op(threads, "AdamW", base::moved_bytes, 3 * values_.span().size_bytes() + 2 * moments);
  kernels::AdamwStep adamw{static_cast<float>(step.learning_rate),  static_cast<float>(config.beta1),
                           static_cast<float>(config.beta2),        static_cast<float>(config.epsilon),
                           static_cast<float>(config.weight_decay), step.number,
                           static_cast<float>(step.gradient_scale)};
  for (const Place& place : places_) {
    if (place.info.role == Role::kState || place.frozen) continue;
    const auto part = [&](const Buffer<float>& block) { return block.span().subspan(place.begin, place.size); };
    adamw.weight_decay = place.info.vector ? 0.0f : static_cast<float>(config.weight_decay);
    moments_.update(adamw, part(values_), part(gradient_), place.begin, threads);
  }
}

}  // namespace choir::train
