#include "compress/skip.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "base/error.h"
#include "compress/choose.h"
#include "moe/admit/skip.h"

namespace choir::compress {
namespace {

using model::Config;
using Ratios = std::vector<float>;

Model with_config(const Model& model, const Config& config) {
  std::vector<std::vector<int>> keep;
  for (const model::LayerConfig& layer : config.layers) keep.push_back(others({}, layer.experts));
  return model.with_layers(config, keep);
}

void append_ratios(const moe::Routing& routing, moe::SubsetRule::Gain gain, Ratios& ratios) {
  const auto logits = routing.scores(routing.plan.experts());
  for (int t = 0; t < routing.plan.tokens; ++t) {
    const int32_t* best = routing.proposed.data() + 2 * static_cast<size_t>(t);
    if (best[0] < 0 || best[1] < 0) continue;
    ratios.push_back(moe::weight_ratio(gain, logits[t][best[0]], logits[t][best[1]]));
  }
}

float median(Ratios values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2) return *middle;
  return static_cast<float>((static_cast<double>(*std::max_element(values.begin(), middle)) + *middle) / 2);
}

LayerSkip summarise(int layer, const Ratios& ratios) {
  LayerSkip result{.layer = layer, .beta = median(ratios)};
  const auto count = static_cast<double>(ratios.size());
  result.mean_ratio = std::accumulate(ratios.begin(), ratios.end(), 0.0) / count;
  const auto skipped = std::ranges::count_if(ratios, [&](float ratio) { return ratio < result.beta; });
  result.skipped_share = static_cast<double>(skipped) / count;
  return result;
}

}  // namespace

SkipResult calibrate_skipping(const Model& model, std::span<const CalibrationBatch> batches, Threads& threads,
                              const Progress& progress) {
  for (int l = 0; l < model.config().depth(); ++l) {
    if (model.config().layers[l].dense()) continue;
    const int k = model.config().layers[l].top_k;
    if (k != 2)
      base::usage_error("the median of ratios is defined for top-2 routing", "layer " + std::to_string(l),
                        "this one uses " + std::to_string(k) + " experts for each token: --method tail or ser");
    if (!model.router(l).skippable())
      base::input_error("skipping would take the place of the router's own admission", "layer " + std::to_string(l),
                        model.router(l).expression());
  }
  check_batches(batches);
  const Model full = model.with_admission("all");
  const Config& config = full.config();
  std::vector<Ratios> ratios(config.layers.size());
  model::Scratch scratch;
  tensor::Buffer<float> logits;
  int done = 0;
  for (const CalibrationBatch& batch : batches) {
    const auto sequences = sequences_of(batch);
    logits.reserve(sequences.size() * static_cast<size_t>(config.vocab));
    const auto observer = [&](int l, const moe::Routing& routing) {
      append_ratios(routing, *full.router(l).gain(), ratios[l]);
    };
    model::forward(full, {batch.ids, sequences}, {.rows = model::Rows::kLast, .observer = observer}, scratch,
                   logits.matrix(batch.sequences, config.vocab), threads);
    if (progress) progress(++done, static_cast<int>(batches.size()));
  }
  SkipResult result{{}, config};
  for (int l = 0; l < config.depth(); ++l) {
    if (config.layers[l].dense()) continue;
    if (ratios[l].empty() || !std::ranges::all_of(ratios[l], [](float r) { return std::isfinite(r); }))
      model.refuse_result("the router weights of layer " + std::to_string(l));
    result.layers.push_back(summarise(l, ratios[l]));
    result.config.layers[l].skip_beta = result.layers.back().beta;
  }
  return result;
}

Model skipping_model(const Model& model, const SkipResult& result) {
  return with_config(model.with_admission("all"), result.config);
}

}  // namespace choir::compress
