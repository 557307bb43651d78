#include "compress/layer_run.h"

#include <algorithm>

#include "compress/stream.h"

namespace choir::compress {
namespace {

using tensor::Buffer;

size_t area(int rows, int cols) { return static_cast<size_t>(rows) * static_cast<size_t>(cols); }

double square(std::span<const float> row) {
  double sum = 0;
  for (const float v : row) sum += static_cast<double>(v) * v;
  return sum;
}

}  // namespace

void layer_inputs(const Model& model, std::span<const CalibrationBatch> batches, const TakeInputs& take,
                  Threads& threads, const Progress& progress) {
  check_batches(batches);
  std::vector<Stream> streams;
  int tokens = 0, done = 0;
  for (const CalibrationBatch& batch : batches) tokens += streams.emplace_back(model, batch, threads).pass.rows();
  const int d = model.config().width;
  const Buffer<float> inputs(area(tokens, d));
  std::vector<double> squares(static_cast<size_t>(tokens));
  model::BlockActivations activations;
  Buffer<float> middle;
  for (int l = 0; l < model.config().depth(); ++l) {
    int first = 0;
    for (const Stream& stream : streams) {
      const int rows = stream.pass.rows();
      middle.reserve(area(rows, d));
      stream.pass.attend(l, stream.matrix(), nullptr, activations, middle.matrix(rows, d));
      std::copy_n(activations.normed.data(), area(rows, d), inputs.data() + area(first, d));
      for (int t = 0; t < rows; ++t) squares[static_cast<size_t>(first + t)] = square(middle.matrix(rows, d).row(t));
      stream.pass.mix(l, middle.matrix(rows, d), {}, activations, stream.matrix());
      first += rows;
      if (progress) progress(++done, static_cast<int>(streams.size()) * model.config().depth());
    }
    take(l, {inputs.matrix(tokens, d), squares});
  }
}

void run_layer(const Model& model, int l, Matrix<const float> x, Matrix<float> z, Threads& threads) {
  constexpr int kChunk = 512;
  moe::MoeActivations activations;
  for (int first = 0; first < x.rows; first += kChunk) {
    const int count = std::min(kChunk, x.rows - first);
    moe::MoeStep step;
    step.tokens.x = x.slice_rows(first, count);
    step.output = z.slice_rows(first, count);
    moe::moe_forward(model.router(l), model.tensors().blocks[static_cast<size_t>(l)].moe, step, activations, threads);
  }
}

double layer_loss(const Model& model, int l, const LayerTarget& target, Threads& threads) {
  const int tokens = target.x.rows, d = target.x.cols;
  const Buffer<float> other(area(tokens, d));
  run_layer(model, l, target.x, other.matrix(tokens, d), threads);
  double loss = 0;
  for (int t = 0; t < tokens; ++t) {
    double error = 0;
    for (int i = 0; i < d; ++i) {
      const double e = static_cast<double>(target.z[t][i]) - other.matrix(tokens, d)[t][i];
      error += e * e;
    }
    loss += target.weight_of(t) * error;
  }
  return loss;
}

}  // namespace choir::compress
