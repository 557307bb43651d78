#include "train/work.h"

#include <algorithm>

namespace choir::train {
namespace {

double area(int rows, int cols) { return static_cast<double>(rows) * cols; }

// A token sees what is before it, half of all on average, and no more than the window.
double attended_by(const model::Sequence& sequence, int window) {
  const double count = sequence.count, most = window > 0 ? std::min(window, sequence.count) : sequence.count;
  return most * (2 * count - most);
}

}  // namespace

void Passed::add(const TokenBatch& batch, const model::Config& config) {
  tokens += static_cast<int64_t>(batch.ids.size());
  for (const model::Sequence& s : batch.sequences) {
    attended += attended_by(s, config.attention.window);
    attended_all += attended_by(s, 0);
  }
}

ForwardWork::ForwardWork(const model::Config& config) : config_(config) {
  shared_ = static_cast<double>(model::count_parameters(config).total);
  if (!config.tied) shared_ -= area(config.vocab, config.width);  // the embedding is looked up
  for (const model::LayerConfig& layer : config.layers)
    shared_ -= 3.0 * config.width * static_cast<double>(layer.total_width());
}

double ForwardWork::multiply_adds(const Passed& passed) const {
  const auto& a = config_.attention;
  double experts = 0;
  for (size_t l = 0; l < passed.routing.size(); ++l) {
    const model::LayerConfig& layer = config_.layers[l];
    for (int e = 0; e < layer.experts; ++e)  // idle ones come last
      experts += static_cast<double>(passed.routing[l].experts[static_cast<size_t>(e)].kept) * 3 *
                 area(config_.width, layer.width_of(e));
  }
  double attended = 0;
  for (const model::LayerConfig& layer : config_.layers)
    attended += layer.sees_all ? passed.attended_all : passed.attended;
  const double attention = attended * a.heads * (a.head_width + a.values()) / 2;
  return shared_ * static_cast<double>(passed.tokens) + attention + experts;
}

double ForwardWork::head(const Passed& passed) const {
  return area(config_.vocab, config_.width) * static_cast<double>(passed.tokens);
}

}  // namespace choir::train
