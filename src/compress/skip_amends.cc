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

double mean_square(Matrix<const float> z) {
  double sum = 0;
  for (int t = 0; t < z.rows; ++t) sum += square(z.row(t));
  return sum / std::max(1, z.rows);
}

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
    sums_.emplace_back(static_cast<size_t>(layer.top_k) - 1, empty);
  tensor::Buffer<float> y, z;
  const auto take = [&](int l, Matrix<const float> x) {
    std::vector<Sums>& layer = sums_[static_cast<size_t>(l)];
    for (tensor::Buffer<float>* buffer : {&y, &z}) buffer->reserve(static_cast<size_t>(x.rows) * width);
    run_layer(full, l, x, z.matrix(x.rows, x.cols), threads);
    const Outputs outputs{y.matrix(x.rows, x.cols), z.matrix(x.rows, x.cols), mean_square(z.matrix(x.rows, x.cols))};
    run_layer(skipping, l, x, y.matrix(x.rows, x.cols), threads, [&](int first, const moe::Plan& plan) {
      for (int t = 0; t < plan.tokens; ++t) {
        const auto slots = plan.edge.begin() + static_cast<std::ptrdiff_t>(t) * plan.choices;
        const auto stay = std::count_if(slots, slots + plan.choices, [](int32_t edge) { return edge >= 0; });
        if (stay > 0 && stay < plan.choices) add(layer[static_cast<size_t>(stay) - 1], outputs, first + t);
      }
    });
  };
  layer_inputs(full, batches, take, threads, progress);
}

void SkipAmends::add(Sums& sums, const Outputs& outputs, int token) const {
  const std::span<const float> y = outputs.y.row(token), z = outputs.z.row(token);
  const double weight = 1 / std::max(outputs.mean + square(z), 1e-30);
  ++sums.tokens;
  for (size_t d = 0; d < y.size(); ++d) {
    const auto a = static_cast<double>(y[d]), b = static_cast<double>(z[d]);
    sums.yz += weight * a * b;
    sums.yy += weight * a * a;
    sums.of_y[d] += a;
    sums.of_z[d] += b;
    sums.of_yy[d] += a * a;
    sums.of_zz[d] += b * b;
    sums.of_yz[d] += a * b;
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
