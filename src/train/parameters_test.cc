#include "train/parameters.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "train/test_run.h"

namespace choir::train {
namespace {

struct Moments {
  double mean = 0, deviation = 0;
};

Moments moments(std::span<const float> x) {
  double sum = 0, squares = 0;
  for (const float v : x) sum += static_cast<double>(v);
  const double mean = sum / static_cast<double>(x.size());
  for (const float v : x) squares += (static_cast<double>(v) - mean) * (static_cast<double>(v) - mean);
  return {mean, std::sqrt(squares / static_cast<double>(x.size()))};
}

template <class Function>
void each(const Config& config, const Parameters& parameters, const Function& function) {
  ModelTensors<Weight> weights = parameters.weights();
  model::visit_tensors(config, weights, [&](const model::TensorInfo& info, const Weight& weight) {
    function(info, std::span(static_cast<const float*>(weight.data), weight.size()));
  });
}

Config tiny_config(int width = 16) {
  nlohmann::json json = nlohmann::json::parse(kTinyModel);
  json["hidden_size"] = width;
  return model::parse_config(json, "test");
}

TEST_CASE("parameters: normal numbers of the right size, norms of one") {
  const Config config = tiny_config(128);
  Parameters parameters(config);
  parameters.initialize(1);
  each(config, parameters, [&](const model::TensorInfo& info, std::span<const float> values) {
    CAPTURE(info.name);
    if (info.vector) {
      for (const float v : values) CHECK(v == 1);
      return;
    }
    const bool last = contains(info.name, "o_proj") || contains(info.name, "w2");
    const double wanted = last ? 0.02 / 2 : 0.02;  // sqrt(2 L) with L = 2
    const Moments found = moments(values);
    const double noise = 1 / std::sqrt(static_cast<double>(values.size()));
    CHECK(std::abs(found.mean) < 4.5 * noise * wanted);
    CHECK(std::abs(found.deviation / wanted - 1) < 4.5 * noise);
  });
}

TEST_CASE("parameters: an orthogonal gate has rows at right angles, as long as a normal one's are in the mean") {
  for (const int width : {8, 16, 128}) {
    Config config = tiny_config(width);
    for (model::LayerConfig& layer : config.layers) {
      layer.experts = 8;
      layer.router = moe::parse_router("base").expression();
    }
    Parameters parameters(config);
    parameters.initialize(1);
    int gates = 0;
    each(config, parameters, [&](const model::TensorInfo& info, std::span<const float> w) {
      if (info.role != model::TensorInfo::Role::kGate) return;
      ++gates;
      for (int a = 0; a < info.rows; ++a)
        for (int b = 0; b < info.rows; ++b) {
          double product = 0;
          for (int j = 0; j < width; ++j)
            product += static_cast<double>(w[a * width + j]) * static_cast<double>(w[b * width + j]);
          CHECK(std::abs(product / (0.02 * 0.02 * width) - (a == b)) < 1e-5);
        }
    });
    CHECK(gates == config.depth());
  }
}

TEST_CASE("parameters: they follow from the seed") {
  const Config config = tiny_config();
  Parameters a(config), b(config), c(config);
  a.initialize(1), b.initialize(1), c.initialize(2);
  CHECK(std::ranges::equal(a.values().span(), b.values().span()));
  CHECK(!std::ranges::equal(a.values().span(), c.values().span()));
}

TEST_CASE("parameters: tensors begin on vectors and do not overlap") {
  const Config config = tiny_config();
  const Parameters parameters(config);
  const float* end = parameters.values().data();
  each(config, parameters, [&](const model::TensorInfo& info, std::span<const float> values) {
    CAPTURE(info.name);
    CHECK(reinterpret_cast<uintptr_t>(values.data()) % 64 == 0);
    CHECK(values.data() >= end);
    CHECK(values.data() < end + 16);
    end = values.data() + values.size();
  });
  CHECK(end <= parameters.values().data() + parameters.values().size());
}

// AdamW in double (arXiv 1711.05101, algorithm 2, with the learning rate as its schedule).
struct PlainAdamw {
  double value, first = 0, second = 0;

  void step(const TrainConfig& c, double rate, double decay, double gradient, int number) {
    first = c.beta1 * first + (1 - c.beta1) * gradient;
    second = c.beta2 * second + (1 - c.beta2) * gradient * gradient;
    const double m = first / (1 - std::pow(c.beta1, number)), v = second / (1 - std::pow(c.beta2, number));
    value -= rate * (m / (std::sqrt(v) + c.epsilon) + decay * value);
  }
};

TEST_CASE("parameters: AdamW as a plain loop in double, norms not decayed") {
  const Config config = tiny_config();
  const TrainConfig run = tiny_run();
  base::Threads threads(2);
  base::Rng rng(9);
  Parameters parameters(config);
  parameters.initialize(1);
  std::map<std::string, std::vector<PlainAdamw>> plain;
  each(config, parameters, [&](const model::TensorInfo& info, std::span<const float> values) {
    for (const float v : values) plain[info.name].push_back({static_cast<double>(v)});
  });
  for (int number = 1; number <= 3; ++number) {
    parameters.clear_gradients();
    double squares = 0;
    model::visit_tensors(config, parameters.gradients(), [&](const model::TensorInfo& info, Matrix<float>& gradient) {
      for (size_t i = 0; i < plain[info.name].size(); ++i) {
        gradient.data[i] = rng.normal();
        const auto g = static_cast<double>(gradient.data[i]);
        squares += g * g;
        plain[info.name][i].step(run, 0.01 * number, info.vector ? 0 : run.weight_decay, 0.25 * g, number);
      }
    });
    CHECK(parameters.gradient_norm(threads) == doctest::Approx(std::sqrt(squares)).epsilon(1e-6));
    parameters.update(run, {0.01 * number, 0.25, number}, threads);
  }
  double worst = 0;
  each(config, parameters, [&](const model::TensorInfo& info, std::span<const float> values) {
    for (size_t i = 0; i < values.size(); ++i)
      worst = std::max(worst, std::abs(static_cast<double>(values[i]) - plain[info.name][i].value));
  });
  CHECK(worst < 1e-6);
}

}  // namespace
}  // namespace choir::train
