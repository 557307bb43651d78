#include "compress/observe.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "compress/stream.h"
#include "kernels/grouped_gemm.h"

namespace choir::compress {
namespace {

using model::Config;
using tensor::Buffer;

constexpr int kChunk = 256;  // tokens whose answers are held at once
constexpr int kSlice = 16;   // tokens whose answers are multiplied at once

size_t area(int rows, int cols) { return static_cast<size_t>(rows) * static_cast<size_t>(cols); }

// P(Binomial(m, share) < least).
double chance_below(int m, double share, int least) {
  double term = std::pow(1 - share, m), sum = 0;
  for (int i = 0; i < least; ++i) {
    sum += term;
    term *= (m - i) / (i + 1.0) * share / (1 - share);
  }
  return sum;
}

template <class T>
void append(std::vector<T>& to, std::span<const T> from) {
  to.insert(to.end(), from.begin(), from.end());
}

// Choices within groups need every rank; any other at least those of a token's own experts.
int ranks_within(const moe::SubsetRule& rule, int experts, int asked) {
  return rule.groups > 1 ? experts : std::clamp(asked, std::min(rule.k, experts), experts);
}

double dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

}  // namespace

int ranks_for(int experts, int k, int least_keep) {
  constexpr double kSeldom = 1e-4;
  const int always = std::min(experts, k + experts - least_keep + 1);
  const double share = static_cast<double>(least_keep) / experts;
  int ranks = k + 1;
  while (ranks < always && chance_below(ranks, share, k + 1) > kSeldom) ++ranks;
  return std::min(ranks, always);
}

LayerObserver::LayerObserver(const LayerView& layer, int ranks, LayerRecord& record, Threads& threads)
    : layer_(layer), record_(record), threads_(threads) {
  const int experts = layer.tensors.experts();
  const auto rule = layer.router.subset_rule();
  CHOIR_CHECK(rule, "a router that experts can be taken from");
  record_ = {};
  record_.rule = *rule;
  record_.experts = experts;
  record_.ranks = ranks_within(*rule, experts, ranks);
  record_.width = layer.tensors.w2[0].rows;
  record_.batch = {0};
  record_.coverage.assign(static_cast<size_t>(experts), 0);
  record_.mean.assign(area(experts, record_.width), 0.0);
  record_.gained_mean = record_.mean;
  squared_gain_.assign(static_cast<size_t>(experts), 0.0);
}

void LayerObserver::expect(int tokens) {
  record_.key.reserve(area(tokens, record_.experts));
  record_.p.reserve(area(tokens, record_.experts));
  record_.order.reserve(area(tokens, record_.ranks));
  record_.gram.reserve(static_cast<size_t>(tokens) * record_.triangle());
  record_.residual.reserve(static_cast<size_t>(tokens));
  record_.turned.reserve(static_cast<size_t>(tokens));
}

void LayerObserver::add(Matrix<const float> x, Matrix<const float> middle, Matrix<float> z) {
  run_capture(layer_, x, record_.ranks, capture_, threads_);
  own_output(capture_, z, threads_);
  for (int first = 0; first < x.rows; first += kSlice) add_products(first, std::min(kSlice, x.rows - first));
  add_choices();
  add_streams(middle, z);
  add_means();
}

// Every token is a group whose answers, rank after rank, are multiplied with themselves. Few tokens at a time: their
// copies stay in the cache.
void LayerObserver::add_products(int first, int tokens) {
  const int m = record_.ranks;
  answers_.reserve(area(tokens * m, record_.width));
  products_.reserve(area(tokens * m, m));
  const Matrix<float> answers = answers_.matrix(tokens * m, record_.width), products = products_.matrix(tokens * m, m);
  threads_.for_each(tokens, [&](int t) {
    for (int r = 0; r < m; ++r)
      std::copy_n(capture_.answer(first + t, r, record_.width), record_.width, answers[t * m + r]);
  });
  std::vector<int32_t> offset;
  std::vector<tensor::Weight> own;
  for (int t = 0; t <= tokens; ++t) offset.push_back(t * m);
  for (int t = 0; t < tokens; ++t) own.emplace_back(Matrix<const float>(answers).slice_rows(t * m, m));
  kernels::grouped_forward({offset, {}}, answers, own, products, threads_);
  for (int row = 0; row < products.rows; ++row) append<float>(record_.gram, products.row(row).subspan(row % m));
}

void LayerObserver::add_choices() {
  const int tokens = capture_.tokens(), experts = record_.experts;
  const moe::Routing& routing = capture_.moe.routing;
  append<int32_t>(record_.order, capture_.order);
  for (int t = 0; t < tokens; ++t) {
    append<float>(record_.key, routing.compared(tokens, experts).row(t));
    const auto logits = routing.scores(experts).row(t);
    const float most = *std::ranges::max_element(logits);
    for (const float z : logits) record_.p.push_back(moe::gain_of_logit(record_.rule.gain, z, most));
  }
}

void LayerObserver::add_streams(Matrix<const float> middle, Matrix<const float> z) {
  for (int t = 0; t < z.rows; ++t) {
    const auto h = middle.row(t), out = z.row(t);
    const double hh = dot(h, h), hz = dot(h, out), zz = dot(out, out);
    const double after = std::sqrt(std::max(hh + 2 * hz + zz, 0.0));
    record_.residual.push_back(static_cast<float>(hh));
    const double cosine = hh > 0 && after > 0 ? (hh + hz) / (std::sqrt(hh) * after) : 1;
    record_.turned.push_back(static_cast<float>(std::max(1 - cosine, 0.0)));
  }
}

void LayerObserver::add_means() {
  const moe::Plan& routed = capture_.moe.routing.plan;
  const auto d = static_cast<size_t>(record_.width);
  threads_.for_each(record_.experts, [&](int e) {
    const auto expert = static_cast<size_t>(e);
    for (int edge = routed.offset[expert]; edge < routed.offset[expert + 1]; ++edge) {
      const int t = routed.token[static_cast<size_t>(edge)];
      const float* f = capture_.answer(t, capture_.rank_of(t, e), record_.width);
      const double gain = routed.weight[static_cast<size_t>(edge)], square = gain * gain;
      squared_gain_[expert] += square;
      for (size_t i = 0; i < d; ++i) {
        record_.mean[expert * d + i] += f[i];
        record_.gained_mean[expert * d + i] += square * f[i];
      }
    }
    record_.coverage[expert] += routed.offset[expert + 1] - routed.offset[expert];
  });
}

void LayerObserver::end_batch() { record_.batch.push_back(static_cast<int32_t>(record_.residual.size())); }

void LayerObserver::finish() {
  const auto d = static_cast<size_t>(record_.width);
  for (size_t e = 0; e < squared_gain_.size(); ++e)
    for (size_t i = 0; i < d && record_.coverage[e] > 0; ++i) {
      record_.mean[e * d + i] /= static_cast<double>(record_.coverage[e]);
      record_.gained_mean[e * d + i] /= squared_gain_[e];
    }
}

namespace {

struct Buffers {
  model::BlockActivations activations;
  Buffer<float> middle, z;
};

void observe_batch(const Model& model, int l, Stream& stream, LayerObserver* observer, Buffers& b) {
  const int rows = stream.pass.rows(), d = model.config().width;
  const Matrix<float> h = stream.matrix();
  b.middle.reserve(area(rows, d));
  const Matrix<float> middle = b.middle.matrix(rows, d);
  stream.pass.attend(l, h, nullptr, b.activations, middle);
  if (!observer) return stream.pass.mix(l, middle, {}, b.activations, h);
  stream.pass.add_shared(l, b.activations.normed.matrix(rows, d), middle);
  for (int first = 0; first < rows; first += kChunk) {
    const int count = std::min(kChunk, rows - first);
    observer->add(b.activations.normed.matrix(rows, d).slice_rows(first, count), middle.slice_rows(first, count),
                  h.slice_rows(first, count));
  }
  observer->end_batch();
  stream.pass.add_routed(middle, h);
}

}  // namespace

void check_observable(const Model& model) {
  bool any = false;
  for (int l = 0; l < model.config().depth(); ++l) {
    if (model.config().layers[l].dense()) continue;
    any = true;
    if (!model.router(l).subset_rule() || model.config().layers[l].idle() > 0)
      base::input_error("the router is not one that experts can be taken from: " + model.router(l).expression(),
                        "layer " + std::to_string(l), "pruning is made for linear > top_k or groups > all");
  }
  if (!any) base::input_error("no layer has experts", model.config().family, "there is nothing to prune");
}

int observed_ranks(const Model& model, int l, const ObserveOptions& options) {
  const model::LayerConfig& layer = model.config().layers[static_cast<size_t>(l)];
  if (layer.dense()) return 0;
  const int keep = std::max(options.least_keep > 0 ? options.least_keep : layer.experts / 4, layer.top_k);
  return ranks_within(*model.router(l).subset_rule(), layer.experts,
                      options.ranks > 0 ? options.ranks : ranks_for(layer.experts, layer.top_k, keep));
}

CalibrationCost calibration_cost(const Model& model, const ObserveOptions& options, const CalibrationNeeds& needs) {
  constexpr int64_t kFloat = sizeof(float), kDouble = sizeof(double), kState = 64;  // kState: of a token in Replay
  const model::Config& config = model.config();
  int64_t records = 0, largest = 0, search = 0, experts = 0;
  for (int l = 0; l < config.depth(); ++l) {
    const int64_t e = config.layers[static_cast<size_t>(l)].experts, m = observed_ranks(model, l, options);
    const int64_t record = kFloat * (2 * e + m + m * (m + 1) / 2 + 2);
    records += record;
    largest = std::max(largest, record);
    search = std::max(search, kFloat * (e + config.layers[static_cast<size_t>(l)].top_k) + 2 * kDouble * m + kState);
    const int64_t width = config.layers[static_cast<size_t>(l)].expert_width;
    experts = std::max(experts, (kChunk * (3 * width + config.width) + kSlice * (config.width + m)) * m * kFloat);
  }
  const auto& a = config.attention;
  const int64_t row = 4 * config.width + (2 * a.heads + 2 * a.kv_heads) * a.head_width;  // of a batch in attention
  CalibrationCost cost;
  cost.fixed = experts + needs.batch_tokens * row * kFloat;
  cost.per_token = needs.streams * config.width * kFloat + (needs.all_records ? records : largest) + search;
  return cost;
}

void observe(const Model& given, std::span<const CalibrationBatch> batches, const ObserveOptions& options,
             const TakeRecord& take, Threads& threads, const Progress& progress) {
  check_batches(batches);
  check_observable(given);
  const Model model = given.with_admission("all");
  std::vector<Stream> streams;
  int tokens = 0, done = 0;
  for (const CalibrationBatch& batch : batches) tokens += streams.emplace_back(model, batch, threads).pass.rows();
  Buffers buffers;
  for (int l = 0; l < model.config().depth(); ++l) {
    LayerRecord record;
    std::optional<LayerObserver> observer;
    const bool dense = model.config().layers[l].dense();
    if (l >= options.first_layer && !dense)
      observer.emplace(LayerView{model.router(l), model.tensors().blocks[l].moe}, observed_ranks(model, l, options),
                       record, threads);
    if (observer) observer->expect(tokens);
    for (Stream& stream : streams) {
      observe_batch(model, l, stream, observer ? &*observer : nullptr, buffers);
      if (progress) progress(++done, static_cast<int>(streams.size()) * model.config().depth());
    }
    if (l < options.first_layer) continue;
    if (observer) observer->finish();
    take(l, std::move(record));
  }
}

}  // namespace choir::compress
