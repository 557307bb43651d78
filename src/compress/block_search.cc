#include "compress/block_search.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "compress/choose.h"
#include "compress/layer_run.h"
#include "compress/stream.h"

namespace choir::compress {
namespace {

using tensor::Buffer;

// The given model with one layer's set.
Model with_set(const Model& model, int l, const std::vector<int>& kept) {
  model::Config config = model.config();
  config.layers[static_cast<size_t>(l)].experts = static_cast<int>(kept.size());
  std::vector<std::vector<int>> keep;
  for (const model::LayerConfig& layer : model.config().layers) keep.push_back(others({}, layer.experts));
  keep[static_cast<size_t>(l)] = kept;
  return model.with_layers(config, keep);
}

// A batch inside a block: its stream after each of the layers, by the candidates that were run last.
struct BlockBatch {
  Stream& stream;                // at the block's input, of the full model
  Buffer<float> target;          // (N,D) after the block, of the full model
  std::vector<Buffer<float>> h;  // [layers] (N,D)

  tensor::Matrix<float> at(const Buffer<float>& buffer) const {
    return buffer.matrix(stream.matrix().rows, stream.matrix().cols);
  }
};

// One block: every combination of its candidates, the last layer's changing fastest, so that what the layers before
// put out is run once.
class Block {
 public:
  Block(const Model& model, std::vector<Stream>& streams, std::span<const std::vector<ScoredSet>> candidates, int first,
        Threads& threads);

  BlockChoice choose(const BlockOptions& options, const std::function<void()>& tried);
  void pass_on();  // the streams become those behind the block, of the full model

 private:
  void attend(int l, BlockBatch& batch, const Buffer<float>& h);
  void run(size_t place, size_t candidate);
  double loss() const;
  void weigh(const BlockOptions& options);

  const Model& model_;
  const std::span<const std::vector<ScoredSet>> candidates_;
  const int first_;
  Threads& threads_;
  std::vector<BlockBatch> batches_;
  std::vector<std::vector<Model>> layers_;  // with each candidate
  std::vector<double> weight_;              // [tokens]
  model::BlockActivations activations_;
  Buffer<float> middle_;
};

Block::Block(const Model& model, std::vector<Stream>& streams, std::span<const std::vector<ScoredSet>> candidates,
             int first, Threads& threads)
    : model_(model), candidates_(candidates), first_(first), threads_(threads) {
  for (size_t i = 0; i < candidates.size(); ++i) {
    CHOIR_CHECK(!candidates[i].empty(), "a candidate for each layer of a block");
    std::vector<Model>& models = layers_.emplace_back();
    for (const ScoredSet& set : candidates[i]) models.push_back(with_set(model, first + static_cast<int>(i), set.kept));
  }
  for (Stream& stream : streams) {
    BlockBatch& batch = batches_.emplace_back(stream, Buffer<float>(stream.h.size()), std::vector<Buffer<float>>());
    for (size_t i = 0; i < candidates.size(); ++i) batch.h.emplace_back(stream.h.size());
    std::ranges::copy(stream.h.span(), batch.target.data());
    for (size_t i = 0; i < candidates.size(); ++i) {
      const int l = first + static_cast<int>(i);
      attend(l, batch, batch.target);
      stream.pass.mix(l, batch.at(middle_), {}, activations_, batch.at(batch.target));
    }
  }
}

void Block::attend(int l, BlockBatch& batch, const Buffer<float>& h) {
  middle_.reserve(batch.stream.h.size());
  batch.stream.pass.attend(l, batch.at(h), nullptr, activations_, batch.at(middle_));
}

void Block::run(size_t place, size_t candidate) {
  const int l = first_ + static_cast<int>(place);
  for (BlockBatch& batch : batches_) {
    attend(l, batch, place == 0 ? batch.stream.h : batch.h[place - 1]);
    const tensor::Matrix<float> h = batch.at(batch.h[place]);
    run_layer(layers_[place][candidate], l, batch.at(activations_.normed), h, threads_);
    batch.stream.pass.add_routed(batch.at(middle_), h);
  }
}

void Block::weigh(const BlockOptions& options) {
  if (options.objective == Objective::kGradient) {
    const std::vector<float>& slope = options.slopes[static_cast<size_t>(first_) + candidates_.size() - 1];
    weight_.assign(slope.begin(), slope.end());
    return;
  }
  std::vector<double> norm;
  for (const BlockBatch& batch : batches_)
    for (int t = 0; t < batch.at(batch.target).rows; ++t) {
      double square = 0;
      for (const float v : batch.at(batch.target).row(t)) square += static_cast<double>(v) * v;
      norm.push_back(square);
    }
  weight_ = options.objective == Objective::kPublished ? std::vector<double>(norm.size(), 1.0) : inverse_norms(norm);
}

double Block::loss() const {
  double sum = 0;
  size_t token = 0;
  for (const BlockBatch& batch : batches_) {
    const tensor::Matrix<float> full = batch.at(batch.target), pruned = batch.at(batch.h.back());
    for (int t = 0; t < full.rows; ++t) {
      double error = 0;
      for (int d = 0; d < full.cols; ++d) {
        const double apart = static_cast<double>(full[t][d]) - pruned[t][d];
        error += apart * apart;
      }
      sum += weight_[token++] * error;
    }
  }
  return sum;
}

BlockChoice Block::choose(const BlockOptions& options, const std::function<void()>& tried) {
  weigh(options);
  const size_t layers = candidates_.size();
  std::vector<size_t> now(layers, 0), best;
  BlockChoice choice{first_, static_cast<int>(layers)};
  for (size_t from = 0;;) {
    for (; from < layers; ++from) run(from, now[from]);
    const double found = loss();
    if (choice.tried == 0) choice.greedy = found;
    if (choice.tried == 0 && std::isnan(found))
      base::input_error("the loss of a block is not a number", "layer " + std::to_string(first_) + " and behind it",
                        "check the weights and the calibration text");
    if (choice.tried++ == 0 || found < choice.loss) {
      best = now;
      choice.loss = found;
    }
    tried();
    from = layers;
    while (from > 0 && ++now[from - 1] == candidates_[from - 1].size()) now[--from] = 0;
    if (from == 0) break;
    --from;
  }
  for (size_t i = 0; i < layers; ++i) choice.keep.push_back(candidates_[i][best[i]].kept);
  return choice;
}

void Block::pass_on() {
  for (BlockBatch& batch : batches_) std::swap(batch.stream.h, batch.target);
}

}  // namespace

std::vector<BlockChoice> choose_in_blocks(const Model& given, std::span<const CalibrationBatch> batches,
                                          std::span<const std::vector<ScoredSet>> candidates,
                                          const BlockOptions& options, Threads& threads, const Progress& progress) {
  if (options.layers < 1)
    base::usage_error("a block of " + std::to_string(options.layers) + " layers", "block", "give 1 or more");
  check_batches(batches);
  CHOIR_CHECK(static_cast<int>(candidates.size()) == given.config().depth(), "candidates of each layer");
  const Model model = given.with_admission("all");
  std::vector<Stream> streams;
  for (const CalibrationBatch& batch : batches) streams.emplace_back(model, batch, threads);
  const auto size = static_cast<size_t>(options.layers);
  const auto block_at = [&](size_t first) {
    return candidates.subspan(first, std::min(size, candidates.size() - first));
  };
  int done = 0, total = 0;
  for (size_t first = 0; first < candidates.size(); first += size) {
    int combinations = 1;
    for (const std::vector<ScoredSet>& layer : block_at(first)) combinations *= static_cast<int>(layer.size());
    total += combinations;
  }
  std::vector<BlockChoice> choices;
  for (size_t first = 0; first < candidates.size(); first += size) {
    Block block(model, streams, block_at(first), static_cast<int>(first), threads);
    choices.push_back(block.choose(options, [&] {
      if (progress) progress(++done, total);
    }));
    block.pass_on();
  }
  return choices;
}

}  // namespace choir::compress
