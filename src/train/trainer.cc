#include "train/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "io/json.h"
#include "kernels/isa.h"
#include "kernels/peak.h"
#include "model/backward.h"
#include "train/checkpoint.h"
#include "train/data.h"
#include "train/metrics.h"
#include "train/save.h"

namespace choir::train {
namespace {

namespace fs = std::filesystem;

// Multiply-adds of the products of one token's forward, times 2 for FLOP and 3 for forward and both backwards.
double flops_per_token(const Config& config, int sequence_length) {
  const auto& a = config.attention;
  const double linear = static_cast<double>(model::count_parameters(config).active);
  const double attention = static_cast<double>(config.depth()) * a.heads * a.head_width * sequence_length;
  return 6 * (linear + attention);
}

double worst_load(const model::TrainingActivations& activations) {
  double worst = 0;
  for (const model::BlockActivations& block : activations.blocks) {
    const moe::Plan& plan = block.moe.routing.plan;
    int most = 0;
    for (int e = 0; e < plan.experts(); ++e) most = std::max(most, plan.offset[e + 1] - plan.offset[e]);
    worst = std::max(worst, static_cast<double>(most) * plan.experts() / std::max(1, plan.edges()));
  }
  return worst;
}

// The sequences of a batch lie one after another and start at position 0.
std::vector<kernels::Sequence> sequences(int count, int length) {
  std::vector<kernels::Sequence> result;
  for (int s = 0; s < count; ++s) result.push_back({s * length, length, 0, s * length});
  return result;
}

class Run {
 public:
  Run(const TrainConfig& config, const RunOptions& options, base::Threads& threads)
      : config_(config), options_(options), threads_(threads) {}

  RunEnd go() {
    prepare();
    Parameters parameters(model_config_);
    Progress progress = begin(parameters);
    const model::Model model(model_config_, parameters.weights());
    MetricsFile metrics(options_.directory + "/metrics.jsonl", progress.step);
    while (progress.step < config_.schedule.steps) {
      const StepReport report = step(model, parameters, progress);
      metrics.add(report);
      const bool stop = options_.on_step && !options_.on_step(report);
      const bool last = progress.step == config_.schedule.steps;
      if (stop || last || progress.step % config_.checkpoint_every == 0) {
        metrics.flush();
        save_checkpoint(options_.directory, parameters, progress, fingerprint_);
      }
      if (stop && !last) return RunEnd::kStopped;
    }
    save_model(model, config_, options_.directory);
    return RunEnd::kFinished;
  }

 private:
  void note(const std::string& line) const {
    if (options_.on_note) options_.on_note(line);
  }

  void prepare() {
    const std::string saved = options_.directory + "/tokenizer.json";
    const base::Stopwatch watch;
    if (!config_.tokenizer.path.empty())
      tokenizer_ = text::load_tokenizer(options_.data_directory + "/" + config_.tokenizer.path);
    else if (options_.resume && fs::exists(saved))
      tokenizer_ = text::load_tokenizer(saved);
    else
      tokenizer_ = learn_tokenizer(config_.domains, options_.data_directory, config_.tokenizer.vocab_size);
    domains_ = read_domain_tokens(config_.domains, options_.data_directory, *tokenizer_, config_.sequence_length + 2);
    int64_t tokens = 0;
    for (const DomainTokens& domain : domains_) tokens += static_cast<int64_t>(domain.tokens.size());
    note(fmt::format("data: {} tokens in {} domains, vocabulary {}, {:.1f} s", tokens, domains_.size(),
                     tokenizer_->vocab_size(), watch.seconds()));

    io::Json json = io::parse_json(config_.model, "model");
    json["vocab_size"] = tokenizer_->vocab_size();
    if (const auto end = tokenizer_->end_of_text()) json["bos_token_id"] = json["eos_token_id"] = *end;
    if (!config_.router.empty()) json["choir"]["router"] = config_.router;
    model_config_ = model::parse_config(json, "model");
    config_.model = model::config_json(model_config_, json).dump();  // the router written out
    if (config_.sequence_length > model_config_.max_positions)
      base::input_error("sequence_length exceeds max_position_embeddings", "training configuration", "lower it");
    const auto count = model::count_parameters(model_config_);
    note(fmt::format("model: {} parameters, {} active; router {}", count.total, count.active,
                     model::router_expression(model_config_, model_config_.layers.front())));
    fingerprint_ =
        fmt::format("{}|{}|{}x{}|{}", config_.model, tokens, config_.batch_size, config_.sequence_length, config_.seed);
    peak_ = kernels::measure_peak_flops(threads_);
    note(fmt::format("machine: {} threads, {:.0f} GFLOP/s of multiply-adds ({})", threads_.count(), peak_ / 1e9,
                     kernels::name_of(kernels::best_isa())));
    if (!fs::exists(saved)) text::write_tokenizer_json(*tokenizer_, saved, base::Existing::kRefuse);
  }

  Progress begin(Parameters& parameters) const {
    if (options_.resume && fs::exists(checkpoint_path(options_.directory)))
      return load_checkpoint(options_.directory, fingerprint_, parameters);
    parameters.initialize(config_.seed);
    return {0, base::Rng(config_.seed + 1).state()};
  }

  StepReport step(const model::Model& model, Parameters& parameters, Progress& progress) {
    const base::Stopwatch watch;
    base::Rng rng(progress.data_rng);
    const TokenBatch batch = draw_batch(domains_, config_.batch_size, config_.sequence_length, rng);
    const auto rows = sequences(config_.batch_size, config_.sequence_length);
    parameters.clear_gradients();
    model::TrainingBatch training{{batch.ids, rows}, batch.targets};
    training.routing.seed = config_.seed ^ static_cast<uint64_t>(progress.step + 1) << 32;
    const model::TrainingLoss loss =
        model::forward_backward(model, training, 1, activations_, parameters.gradients(), threads_);
    const double norm = parameters.gradient_norm(threads_);
    ++progress.step;
    if (!std::isfinite(loss.cross_entropy) || !std::isfinite(norm))
      base::input_error(fmt::format("the loss is not a number at step {}", progress.step), options_.directory,
                        "lower the learning rate and resume from the last checkpoint");
    const double rate = config_.schedule.at(progress.step);
    const double scale = norm > config_.gradient_clip ? config_.gradient_clip / norm : 1;
    parameters.update(config_, {rate, scale, progress.step}, threads_);
    update_routers(model, training, parameters);
    progress.data_rng = rng.state();

    StepReport report{.step = progress.step,
                      .steps = config_.schedule.steps,
                      .loss = loss.cross_entropy,
                      .balance_loss = loss.balance,
                      .gradient_norm = norm,
                      .learning_rate = rate};
    const auto tokens = static_cast<int64_t>(batch.ids.size());
    report.tokens = progress.step * tokens;
    report.seconds = watch.seconds();
    report.tokens_per_second = static_cast<double>(tokens) / report.seconds;
    report.share_of_peak = report.tokens_per_second * flops_per_token(model_config_, config_.sequence_length) / peak_;
    report.max_over_mean_load = worst_load(activations_);
    return report;
  }

  // The routers' own numbers move once a step, behind the weights.
  void update_routers(const model::Model& model, const model::TrainingBatch& batch, const Parameters& parameters) {
    std::vector<std::vector<float>> sums;
    for (int l = 0; l < model_config_.depth(); ++l)
      sums.emplace_back(static_cast<size_t>(model.router(l).sums_size(model_config_.layers[l].routed())));
    model::observe(model, batch, activations_, sums, threads_);
    for (int l = 0; l < model_config_.depth(); ++l)
      model.router(l).update(model_config_.layers[l].routed(), sums[static_cast<size_t>(l)], parameters.state(l));
  }

  TrainConfig config_;
  const RunOptions& options_;
  base::Threads& threads_;
  std::unique_ptr<const text::Tokenizer> tokenizer_;
  std::vector<DomainTokens> domains_;
  model::Config model_config_;
  std::string fingerprint_;
  double peak_ = 1;
  model::TrainingActivations activations_;
};

}  // namespace

RunEnd train(const TrainConfig& config, const RunOptions& options, base::Threads& threads) {
  return Run(config, options, threads).go();
}

}  // namespace choir::train
