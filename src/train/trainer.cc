#include "train/trainer.h"

#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "io/json.h"
#include "kernels/isa.h"
#include "kernels/peak.h"
#include "train/metrics.h"
#include "train/save.h"
#include "train/step.h"
#include "train/warm_start.h"

namespace choir::train {
namespace {

namespace fs = std::filesystem;

class Run {
 public:
  Run(const TrainConfig& config, const RunOptions& options, base::Threads& threads)
      : config_(config), options_(options), threads_(threads) {}

  RunEnd go() {
    prepare();
    Parameters parameters(model_config_, config_.moments);
    parameters.freeze(config_.freeze);
    Progress progress = begin(parameters);
    const model::Model model(model_config_, parameters.weights());
    write_beginning();
    MetricsFile metrics(options_.directory + "/metrics.jsonl", progress.step);
    std::optional<MetricsFile> evaluations;
    if (config_.evaluation.every > 0) evaluations.emplace(options_.directory + "/evaluations.jsonl", progress.step);
    Stepper stepper(config_, model, parameters, options_.directory, peak_, threads_);
    double seconds = metrics.seconds();
    while (progress.step < config_.schedule.steps) {
      const StepReport report = stepper.step(draw(progress), progress);
      seconds += report.seconds;
      metrics.add(to_json(report));
      const bool last = progress.step == config_.schedule.steps;
      if (evaluates(progress.step)) evaluations->add(to_json(evaluate_model(model, progress.step, seconds)));
      const bool stop = options_.on_step && !options_.on_step(report);
      if (stop || last || progress.step % config_.checkpoint_every == 0) {
        metrics.flush();
        if (evaluations) evaluations->flush();
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
      tokenizer_ = text::load_tokenizer(place_of(options_.data_directory, config_.tokenizer.path));
    else if (options_.resume && fs::exists(saved))
      tokenizer_ = text::load_tokenizer(saved);
    else
      tokenizer_ = learn_tokenizer(config_.domains, options_.data_directory, config_.tokenizer.vocab_size);
    domains_ = read_domain_tokens(config_.domains, options_.data_directory, *tokenizer_, config_.sequence_length + 2);
    if (config_.evaluation.every > 0)
      hold_out(domains_, config_.evaluation, config_.sequence_length, options_.data_directory, *tokenizer_);
    int64_t tokens = 0;
    for (const DomainTokens& domain : domains_) tokens += static_cast<int64_t>(domain.tokens.size());
    note(fmt::format("data: {} tokens in {} domains, vocabulary {}, {:.1f} s", tokens, domains_.size(),
                     tokenizer_->vocab_size(), watch.seconds()));
    if (config_.evaluation.every > 0) {
      held_out_.batches = held_out_batches(domains_, config_.batch_size, config_.sequence_length);
      for (const DomainTokens& domain : domains_) held_out_.names.push_back(domain.name);
    }
    prepare_model(tokens);
    peak_ = kernels::measure_peak_flops(threads_);
    note(fmt::format("machine: {} threads, {:.0f} GFLOP/s of multiply-adds ({})", threads_.count(), peak_ / 1e9,
                     kernels::name_of(kernels::best_isa())));
  }

  void prepare_model(int64_t tokens) {
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
    if (config_.accumulate > 1) fingerprint_ += fmt::format("|{} micro-batches", config_.accumulate);
    if (config_.moments != tensor::DType::kF32) fingerprint_ += "|bfloat16 moments";
    for (const std::string& pattern : config_.freeze) fingerprint_ += "|freeze " + pattern;
    if (config_.placement.nodes > 1)
      fingerprint_ += fmt::format("|{} nodes by {}", config_.placement.nodes,
                                  config_.placement.pin == Placement::Pin::kDomain ? "domain" : "batch");
  }

  Progress begin(Parameters& parameters) const {
    if (options_.resume && fs::exists(checkpoint_path(options_.directory)))
      return load_checkpoint(options_.directory, fingerprint_, parameters);
    parameters.initialize(config_.seed);
    if (!config_.from.empty()) {
      const std::string from = place_of(options_.data_directory, config_.from);
      note(warm_start({from, config_.upcycle_noise, config_.seed + 2}, model_config_, parameters));
    }
    return {0, base::Rng(config_.seed + 1).state()};
  }

  // The micro-batches of the next step.
  std::vector<TokenBatch> draw(Progress& progress) const {
    base::Rng rng(progress.data_rng);
    std::vector<TokenBatch> batches;
    for (int i = 0; i < config_.accumulate; ++i)
      batches.push_back(draw_batch(domains_, config_.batch_size, config_.sequence_length, rng));
    progress.data_rng = rng.state();
    return batches;
  }

  // The tokenizer, and what the run is for whoever compares runs.
  void write_beginning() const {
    const std::string saved = options_.directory + "/tokenizer.json";
    if (!fs::exists(saved)) text::write_tokenizer_json(*tokenizer_, saved, base::Existing::kRefuse);
    const auto count = model::count_parameters(model_config_);
    const nlohmann::ordered_json json{{"router", model::router_expression(model_config_, model_config_.layers.front())},
                                      {"parameters", count.total},
                                      {"active_parameters", count.active},
                                      {"seed", config_.seed}};
    base::write_file(options_.directory + "/run.json", json.dump(2) + "\n", base::Existing::kReplace);
  }

  bool evaluates(int step) const {
    const int every = config_.evaluation.every;
    return every > 0 && (step % every == 0 || step == config_.schedule.steps);
  }

  Evaluation evaluate_model(const model::Model& model, int step, double seconds) const {
    Evaluation e = evaluate(model, held_out_, {config_.placement, config_.seed}, threads_);
    e.step = step;
    e.seconds = seconds;
    note(fmt::format("step {}: held-out loss {:.4f}, under the training rule {:.4f}, gap {:+.4f}, agreement {:.1f}%",
                     step, e.loss, e.loss_training_rule, e.loss - e.loss_training_rule, 100 * e.agreement));
    return e;
  }

  TrainConfig config_;
  const RunOptions& options_;
  base::Threads& threads_;
  std::unique_ptr<const text::Tokenizer> tokenizer_;
  std::vector<DomainTokens> domains_;
  model::Config model_config_;
  std::string fingerprint_;
  double peak_ = 1;
  HeldOut held_out_;
};

}  // namespace

RunEnd train(const TrainConfig& config, const RunOptions& options, base::Threads& threads) {
  return Run(config, options, threads).go();
}

}  // namespace choir::train
