#include "compress/skip_amends.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "compress/layer_run.h"
#include "compress/mixture.h"

namespace choir::compress {
namespace {

using tensor::Matrix;

constexpr int64_t kLeastForFactor = 16, kLeastForChannels = 128;  // tokens

double square(std::span<const float> row) {
  double sum = 0;
  for (const float v : row) sum += static_cast<double>(v) * static_cast<double>(v);
  return sum;
}

// What one layer's routed experts give, some hundred tokens at a time.
struct RoutedLayer {
  const moe::Router& router;
  moe::MoeTensors<tensor::Weight> tensors;
  moe::MoeActivations activations;
  tensor::Buffer<float> out;

  RoutedLayer(const Model& model, int l)
      : router(model.router(l)), tensors(model.tensors().blocks[static_cast<size_t>(l)].moe) {
    tensors.shared = {};
  }

  Matrix<const float> run(Matrix<const float> x, Threads& threads) {
    out.reserve(static_cast<size_t>(x.rows) * static_cast<size_t>(x.cols));
    moe::MoeStep step;
    step.tokens.x = x;
    step.output = out.matrix(x.rows, x.cols);
    moe::moe_forward(router, tensors, step, activations, threads);
    return step.output;
  }

  // Of those that the router chose for a token; 0 where none was left out.
  int64_t stay(int token) const {
    const moe::Plan& plan = activations.routing.plan;
    const auto slots = plan.edge.begin() + static_cast<std::ptrdiff_t>(token) * plan.choices;
    const auto count = std::count_if(slots, slots + plan.choices, [](int32_t edge) { return edge >= 0; });
    return count < plan.choices ? count : 0;
  }
};

// "skip(tail=0.3)" and "factors": "skip(tail=0.3, factors)".
std::string with_argument(const std::string& word, const std::string& argument) {
  return word.substr(0, word.size() - 1) + ", " + argument + ")";
}

}  // namespace

const char* name_of(Amend amend) {
  constexpr const char* kNames[] = {"none", "factors", "moments", "linear"};
  return kNames[static_cast<size_t>(amend)];
}

SkipAmends::SkipAmends(const Model& full, const Model& skipping, std::span<const CalibrationBatch> batches,
                       Threads& threads, const Progress& progress)
    : skipping_(skipping) {
  const auto width = static_cast<size_t>(full.config().width);
  const Sums empty{0,
                   0,
                   0,
                   std::vector<double>(width),
                   std::vector<double>(width),
                   std::vector<double>(width),
                   std::vector<double>(width),
                   std::vector<double>(width)};
  for (const model::LayerConfig& layer : full.config().layers)
    sums_.emplace_back(static_cast<size_t>(std::max(1, layer.top_k)) - 1, empty);
  const auto take = [&](int l, const LayerInputs& inputs) {
    std::vector<Sums>& layer = sums_[static_cast<size_t>(l)];
    if (layer.empty()) return;
    RoutedLayer whole(full, l), part(skipping, l);
    constexpr int kChunk = 512;
    for (int first = 0; first < inputs.x.rows; first += kChunk) {
      const Matrix<const float> x = inputs.x.slice_rows(first, std::min(kChunk, inputs.x.rows - first));
      const Matrix<const float> z = whole.run(x, threads), y = part.run(x, threads);
      for (int t = 0; t < x.rows; ++t)
        if (const int64_t stay = part.stay(t); stay > 0)
          add({y.row(t), z.row(t), inputs.stream[static_cast<size_t>(first + t)]},
              layer[static_cast<size_t>(stay) - 1]);
    }
  };
  layer_inputs(full, batches, take, threads, progress);
}

void SkipAmends::add(const Outputs& outputs, Sums& sums) {
  const double weight = 1 / std::max(outputs.stream + square(outputs.z), 1e-30);
  ++sums.tokens;
  for (size_t d = 0; d < outputs.y.size(); ++d) {
    const auto y = static_cast<double>(outputs.y[d]), z = static_cast<double>(outputs.z[d]);
    sums.yz += weight * y * z;
    sums.yy += weight * y * y;
    sums.of_y[d] += y;
    sums.of_z[d] += z;
    sums.of_yy[d] += y * y;
    sums.of_zz[d] += z * z;
    sums.of_yz[d] += y * z;
  }
}

std::vector<float> SkipAmends::row_of(const Sums& sums, Amend amend) const {
  if (amend == Amend::kFactors)
    return {sums.tokens < kLeastForFactor || !(sums.yy > 0) ? 1 : static_cast<float>(sums.yz / sums.yy)};
  const size_t width = sums.of_y.size();
  std::vector<float> row(2 * width, 0.0f);
  std::fill_n(row.begin(), width, 1.0f);
  const auto n = static_cast<double>(sums.tokens);
  for (size_t d = 0; d < width && sums.tokens >= kLeastForChannels; ++d) {
    const double y = sums.of_y[d] / n, z = sums.of_z[d] / n;
    const double yy = sums.of_yy[d] / n - y * y, zz = sums.of_zz[d] / n - z * z, yz = sums.of_yz[d] / n - y * z;
    if (!(yy > 1e-12 * y * y)) continue;
    const double factor = amend == Amend::kLinear ? yz / yy : std::sqrt(std::max(zz, 0.0) / yy);
    row[d] = static_cast<float>(factor);
    row[width + d] = static_cast<float>(z - factor * y);
  }
  return row;
}

Model SkipAmends::model(Amend amend) const {
  Model result = skipping_;
  if (amend == Amend::kNone) return result;
  for (int l = 0; l < result.config().depth(); ++l) {
    const std::vector<Sums>& layer = sums_[static_cast<size_t>(l)];
    const std::string word = skipping_.router(l).admission();
    if (layer.empty() || !word.starts_with("skip(")) continue;
    std::vector<float> numbers;
    for (const Sums& sums : layer) {
      const std::vector<float> row = row_of(sums, amend);
      numbers.insert(numbers.end(), row.begin(), row.end());
    }
    Mixture mixture(result, l);
    if (mixture.tensors.state.data) {
      const std::vector<float> old = numbers_of(mixture.tensors.state);
      numbers.insert(numbers.end(), old.begin(), old.end());
    }
    const std::string argument =
        amend == Amend::kFactors ? "factors" : "channels=" + std::to_string(result.config().width);
    mixture.config.skip_beta.reset();
    mixture.config.router = moe::with_admission(skipping_.router(l).expression(), with_argument(word, argument));
    mixture.tensors.state = mixture.made(tensor::DType::kF32, {numbers.data(), 1, static_cast<int>(numbers.size())});
    result = mixture.in(result, l);
  }
  return result;
}

}  // namespace choir::compress
