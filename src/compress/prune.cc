#include "compress/prune.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/clock.h"
#include "base/error.h"
#include "compress/choose.h"
#include "compress/criteria.h"

namespace choir::compress {
namespace {

using model::Config;
using model::LayerConfig;
using tensor::Buffer;

constexpr int kChunk = 512;  // tokens whose answers are held at once

size_t area(int rows, int cols) { return static_cast<size_t>(rows) * static_cast<size_t>(cols); }

int keep_of(const PruneOptions& options, int layer) { return options.keep[options.keep.size() == 1 ? 0 : layer]; }

// Top-k of the logits, gains by a softmax over the chosen: what SubsetErrors computes.
bool is_plain(const moe::Router& router) {
  const auto rule = router.subset_rule();
  return rule && rule->groups == 1 && rule->gain == moe::SubsetRule::Gain::kSoftmax &&
         rule->over == moe::SubsetRule::Over::kChosen && rule->scale == 1 && router.state_size(2) == 0;
}

void check_layer(const Config& config, const LayerConfig& layer, int keep, Method method, const std::string& where) {
  if (layer.dense()) return;
  if (const std::string router = model::router_expression(config, layer); !is_plain(moe::parse_router(router)))
    base::input_error("the router is not one that experts can be taken from: " + router, where,
                      "pruning is made for linear > top_k > all > chosen");
  if (layer.idle() > 0)
    base::input_error("the layer has experts without weights", where, "pruning is made for layers without them");
  if (keep > layer.experts)
    base::usage_error("keep " + std::to_string(keep), where, "there are " + std::to_string(layer.experts) + " experts");
  if (keep < layer.top_k)
    base::usage_error("keep " + std::to_string(keep), where,
                      "each token uses " + std::to_string(layer.top_k) + " experts, so at least as many must stay");
  if (method == Method::kExact && !SubsetErrors::fits(layer.experts, layer.top_k))
    base::usage_error("an exact search over " + std::to_string(layer.experts) + " experts, " +
                          std::to_string(layer.top_k) + " for each token",
                      where, "it is made for up to 16 experts with top-2; use the method frequency or random");
}

// A batch on its way through the layers.
struct Stream {
  std::vector<kernels::Sequence> sequences;
  model::ForwardPass pass;
  Buffer<float> given, pruned;  // (N,D) residual streams of the given and, in a progressive search, the pruned model

  Stream(const Model& model, const CalibrationBatch& batch, bool progressive, Threads& threads)
      : sequences(sequences_of(batch)),
        pass(model, {batch.ids, sequences}, threads),
        given(area(pass.rows(), model.config().width)),
        pruned(progressive ? given.size() : 0) {
    pass.embed(given.matrix(pass.rows(), model.config().width));
    if (progressive) std::ranges::copy(given.span(), pruned.data());
  }
};

// What the calibration says about one layer.
struct Findings {
  std::optional<SubsetErrors> errors;
  std::vector<int64_t> coverage;
  std::vector<double> peak;  // [E] the largest answer's norm
};

class Search {
 public:
  Search(const Model& model, std::span<const CalibrationBatch> batches, const PruneOptions& options, Threads& threads,
         const Progress& progress)
      : model_(model), options_(options), threads_(threads), progress_(progress), rng_(options.seed) {
    for (const CalibrationBatch& batch : batches) streams_.emplace_back(model, batch, options.progressive, threads);
  }

  LayerChoice layer(int l);

 private:
  LayerView view(const Model& model, int l) const { return {model.router(l), model.tensors().blocks[l].moe}; }
  Matrix<float> attend(int l, const Stream& stream, const Buffer<float>& h);
  void observe(int l, const Stream& stream, Findings& findings);
  void observe_tokens(int l, Matrix<const float> x, Matrix<float> output, Findings& findings);
  void note_peaks(std::vector<double>& peak) const;
  void pass_on(const LayerView& layer, Matrix<const float> x, Matrix<float> output);
  void advance_pruned(int l, const std::vector<int>& keep);
  LayerChoice choose(int l, const Findings& findings);
  LayerChoice pass_dense(int l);
  void report_losses(const SubsetErrors& errors, LayerChoice& choice) const;

  const Model& model_;
  const PruneOptions& options_;
  Threads& threads_;
  const Progress& progress_;
  base::Rng rng_;
  std::vector<Stream> streams_;
  model::BlockActivations activations_;
  Buffer<float> middle_;
  Capture capture_;
  int done_ = 0;
};

template <class Function>
void each_chunk(int rows, const Function& function) {
  for (int first = 0; first < rows; first += kChunk) function(first, std::min(kChunk, rows - first));
}

// Returns what the experts receive; middle_ is the residual stream they add to. Attention is never pruned.
Matrix<float> Search::attend(int l, const Stream& stream, const Buffer<float>& h) {
  const int rows = stream.pass.rows(), d = model_.config().width;
  middle_.reserve(area(rows, d));
  stream.pass.attend(l, h.matrix(rows, d), nullptr, activations_, middle_.matrix(rows, d));
  const Matrix<float> x = activations_.normed.matrix(rows, d);
  stream.pass.add_shared(l, x, middle_.matrix(rows, d));
  return x;
}

// The output of a layer as it is.
void Search::pass_on(const LayerView& layer, Matrix<const float> x, Matrix<float> output) {
  each_chunk(x.rows, [&](int first, int count) {
    run_capture(layer, x.slice_rows(first, count), layer.router.choices(layer.tensors.experts()), capture_, threads_);
    own_output(capture_, output.slice_rows(first, count), threads_);
  });
}

// Measures the layer on its inputs x. `output` is the target: given in a progressive search, else the layer's own
// output, which is written here.
void Search::observe_tokens(int l, Matrix<const float> x, Matrix<float> output, Findings& findings) {
  const int ranks =
      findings.errors ? findings.errors->ranks() : model_.router(l).choices(model_.config().layers[l].experts);
  each_chunk(x.rows, [&](int first, int count) {
    run_capture(view(model_, l), x.slice_rows(first, count), ranks, capture_, threads_);
    const Matrix<float> target = output.slice_rows(first, count);
    if (!options_.progressive) own_output(capture_, target, threads_);
    if (findings.errors) findings.errors->add(capture_, target, threads_);
    const std::vector<int32_t>& offset = capture_.moe.routing.plan.offset;
    for (size_t e = 0; e < findings.coverage.size(); ++e) findings.coverage[e] += offset[e + 1] - offset[e];
    note_peaks(findings.peak);
  });
  if (findings.errors) findings.errors->end_batch(threads_);
}

void Search::note_peaks(std::vector<double>& peak) const {
  const moe::Plan& routed = capture_.moe.routing.plan;
  const int d = model_.config().width;
  for (size_t e = 0; e < peak.size(); ++e)
    for (int edge = routed.offset[e]; edge < routed.offset[e + 1]; ++edge) {
      const int t = routed.token[static_cast<size_t>(edge)];
      const float* f = capture_.answer(t, capture_.rank_of(t, static_cast<int>(e)), d);
      double square = 0;
      for (int i = 0; i < d; ++i) square += static_cast<double>(f[i]) * f[i];
      peak[e] = std::max(peak[e], std::sqrt(square));
    }
}

// Takes the given model's residual stream through the layer, and measures on the way.
void Search::observe(int l, const Stream& stream, Findings& findings) {
  const int rows = stream.pass.rows(), d = model_.config().width;
  const Matrix<float> h = stream.given.matrix(rows, d);
  const Matrix<float> x = attend(l, stream, stream.given);
  if (!options_.progressive) {
    observe_tokens(l, x, h, findings);
    stream.pass.add_routed(middle_.matrix(rows, d), h);
    return;
  }
  pass_on(view(model_, l), x, h);
  Buffer<float> middle(area(rows, d));
  std::swap(middle, middle_);
  observe_tokens(l, attend(l, stream, stream.pruned), h, findings);
  stream.pass.add_routed(middle.matrix(rows, d), h);
}

std::vector<std::vector<int>> everything(const Config& config) {
  std::vector<std::vector<int>> keep;
  for (const LayerConfig& layer : config.layers) keep.push_back(others({}, layer.experts));
  return keep;
}

// Takes the pruned model's residual streams through its layer l.
void Search::advance_pruned(int l, const std::vector<int>& keep) {
  Config config = model_.config();
  config.layers[l].experts = static_cast<int>(keep.size());
  std::vector<std::vector<int>> experts = everything(config);
  experts[l] = keep;
  const Model smaller = model_.with_layers(config, experts);
  for (const Stream& stream : streams_) {
    const Matrix<float> h = stream.pruned.matrix(stream.pass.rows(), config.width);
    const Matrix<float> x = attend(l, stream, stream.pruned);
    pass_on(view(smaller, l), x, h);
    stream.pass.add_routed(middle_.matrix(h.rows, h.cols), h);
  }
}

void Search::report_losses(const SubsetErrors& errors, LayerChoice& choice) const {
  choice.loss = errors.loss(as_set(choice.keep));
  const int experts = static_cast<int>(choice.coverage.size());
  const bool listed = options_.all_losses;
  bool finite = true;
  for (const std::vector<int>& dropped : combinations(experts, experts - static_cast<int>(choice.keep.size()))) {
    const double loss = errors.loss(errors.all() ^ as_set(dropped));
    finite = finite && std::isfinite(loss);
    if (listed) choice.losses.push_back({dropped, loss});
  }
  if (!finite) model_.refuse_result("the losses of layer " + std::to_string(choice.layer));
}

LayerChoice Search::choose(int l, const Findings& findings) {
  const int experts = model_.config().layers[l].experts, keep = keep_of(options_, l);
  LayerChoice choice;
  choice.layer = l;
  choice.candidates = 1;
  choice.coverage = findings.coverage;
  if (options_.method == Method::kExact) {
    choice.keep = choose_exact(*findings.errors, experts, keep);
    choice.candidates = static_cast<int64_t>(combinations(experts, keep).size());
  } else if (options_.method == Method::kFrequency) {
    choice.keep = choose_frequent(findings.coverage, keep);
  } else {
    choice.keep = choose_random(rng_, experts, keep);
  }
  for (int e = 0; e < experts; ++e)
    if (findings.coverage[e] < options_.few_tokens) choice.rarely_seen.push_back(e);
  std::ranges::set_difference(super_experts(findings.peak, findings.coverage, kSuper), choice.keep,
                              std::back_inserter(choice.super));
  if (findings.errors) report_losses(*findings.errors, choice);
  return choice;
}

// A dense layer keeps none of no experts.
LayerChoice Search::pass_dense(int l) {
  for (const Stream& stream : streams_) {
    for (const Buffer<float>* h : {&stream.given, &stream.pruned}) {
      if (h->size() == 0) continue;
      attend(l, stream, *h);
      std::copy_n(middle_.data(), area(stream.pass.rows(), model_.config().width), h->data());
    }
    if (progress_) progress_(++done_, static_cast<int>(streams_.size()) * model_.config().depth());
  }
  LayerChoice choice;
  choice.layer = l;
  choice.candidates = 1;
  return choice;
}

LayerChoice Search::layer(int l) {
  const LayerConfig& layer = model_.config().layers[l];
  if (layer.dense()) return pass_dense(l);
  const auto experts = static_cast<size_t>(layer.experts);
  Findings findings{{}, std::vector<int64_t>(experts), std::vector<double>(experts)};
  if (SubsetErrors::fits(layer.experts, layer.top_k))
    findings.errors.emplace(layer.experts, layer.top_k, keep_of(options_, l));
  for (const Stream& stream : streams_) {
    observe(l, stream, findings);
    if (progress_) progress_(++done_, static_cast<int>(streams_.size()) * model_.config().depth());
  }
  const LayerChoice choice = choose(l, findings);
  if (options_.progressive && l + 1 < model_.config().depth()) advance_pruned(l, choice.keep);
  return choice;
}

std::vector<std::vector<int>> kept_experts(const std::vector<LayerChoice>& choices) {
  std::vector<std::vector<int>> keep;
  for (const LayerChoice& choice : choices) keep.push_back(choice.keep);
  return keep;
}

}  // namespace

// When a layer loses experts, every layer's list is written: a file holds all of them or none.
Config pruned_config(Config config, const std::vector<std::vector<int>>& keep) {
  bool complete = true;
  for (size_t l = 0; l < keep.size(); ++l)
    complete = complete && static_cast<int>(keep[l].size()) == config.layers[l].experts;
  if (complete) return config;
  for (size_t l = 0; l < keep.size(); ++l) {
    LayerConfig& layer = config.layers[l];
    std::vector<int> kept, widths;
    for (const int e : keep[l]) {
      kept.push_back(layer.kept.empty() ? e : layer.kept[static_cast<size_t>(e)]);
      if (!layer.widths.empty()) widths.push_back(layer.width_of(e));
    }
    if (!widths.empty()) layer.expert_width = std::ranges::max(widths);
    layer.kept = std::move(kept);
    layer.widths = std::move(widths);
    layer.experts = static_cast<int>(keep[l].size());
  }
  return config;
}

void check_prune(const Config& config, const PruneOptions& options) {
  if (options.keep.size() != 1 && static_cast<int>(options.keep.size()) != config.depth())
    base::usage_error(std::to_string(options.keep.size()) + " numbers of experts to keep", "keep",
                      "give one, or one for each of the " + std::to_string(config.depth()) + " layers");
  for (int l = 0; l < config.depth(); ++l)
    check_layer(config, config.layers[l], keep_of(options, l), options.method, "layer " + std::to_string(l));
}

bool exact_fits(const Config& config) {
  return std::ranges::all_of(config.layers, [&](const LayerConfig& layer) {
    if (layer.dense()) return true;
    const bool plain = is_plain(moe::parse_router(model::router_expression(config, layer)));
    return plain && layer.idle() == 0 && SubsetErrors::fits(layer.experts, layer.top_k);
  });
}

PruneResult prune(const Model& model, std::span<const CalibrationBatch> batches, const PruneOptions& options,
                  Threads& threads, const Progress& progress) {
  const base::Stopwatch watch;
  check_prune(model.config(), options);
  check_batches(batches);
  const Model unskipping = model.with_admission("all");
  const Config& config = unskipping.config();
  Search search(unskipping, batches, options, threads, progress);
  PruneResult result;
  for (int l = 0; l < config.depth(); ++l) result.layers.push_back(search.layer(l));
  result.config = pruned_config(config, kept_experts(result.layers));
  result.seconds = watch.seconds();
  return result;
}

Model pruned_model(const Model& model, const PruneResult& result) {
  return model.with_layers(result.config, kept_experts(result.layers));
}

}  // namespace choir::compress
