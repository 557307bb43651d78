#include "train/trainer.h"

#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "io/json.h"
#include "kernels/isa.h"
#include "kernels/peak.h"
#include "train/corpus.h"
#include "train/record.h"
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
    RunRecord record(config_, options_.directory, progress.step);
    Stepper stepper(config_, model, parameters, options_.directory, peak_, threads_);
    while (progress.step < config_.schedule.steps) {
      const StepReport report = stepper.step(corpus_->draw(progress), progress);
      record.add(report);
      if (evaluates(progress.step)) record.add(progress.step, evaluate_model(model, progress.step));
      const bool stop = options_.on_step && !options_.on_step(report);
      const bool last = progress.step == config_.schedule.steps;
      if (stop || last || progress.step % config_.checkpoint_every == 0) {
        record.flush();
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
      tokenizer_ = learn_tokenizer(config_, options_.data_directory);
    corpus_.emplace(config_, options_.data_directory, *tokenizer_);
    const std::string examples = corpus_->examples() > 0 ? fmt::format(", {} examples", corpus_->examples()) : "";
    note(fmt::format("data: {} tokens in {} domains{}, vocabulary {}, {:.1f} s", corpus_->tokens(), corpus_->domains(),
                     examples, tokenizer_->vocab_size(), watch.seconds()));
    prepare_model();
    peak_ = kernels::measure_peak_flops(threads_);
    note(fmt::format("machine: {} threads, {:.0f} GFLOP/s of multiply-adds ({})", threads_.count(), peak_ / 1e9,
                     kernels::name_of(kernels::best_isa())));
  }

  void prepare_model() {
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
    fingerprint_ = fingerprint();
  }

  // What must be the same for a run to go on. Additions stand only where they are used.
  std::string fingerprint() const {
    std::string print = fmt::format("{}|{}|{}x{}|{}", config_.model, corpus_->tokens(), config_.batch_size,
                                    config_.sequence_length, config_.seed);
    if (config_.task == Task::kExamples) print += "|sft";
    if (config_.accumulate > 1) print += fmt::format("|{} micro-batches", config_.accumulate);
    if (config_.moments != tensor::DType::kF32) print += "|bfloat16 moments";
    for (const std::string& pattern : config_.freeze) print += "|freeze " + pattern;
    if (config_.placement.nodes > 1)
      print += fmt::format("|{} nodes by {}", config_.placement.nodes,
                           config_.placement.pin == Placement::Pin::kDomain ? "domain" : "batch");
    return print;
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

  // The tokenizer, and what the run is for whoever compares runs. Half a file that a killed run left behind goes.
  void write_beginning() const {
    for (const auto& entry : fs::directory_iterator(options_.directory))
      if (entry.path().filename().string().find(".partial.") != std::string::npos) fs::remove(entry.path());
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

  Evaluation evaluate_model(const model::Model& model, int step) const {
    Evaluation e = evaluate(model, corpus_->held_out(), {config_.placement, config_.seed}, threads_);
    note(fmt::format("step {}: held-out loss {:.4f}, under the training rule {:.4f}, gap {:+.4f}, agreement {:.1f}%",
                     step, e.loss, e.loss_training_rule, e.loss - e.loss_training_rule, 100 * e.agreement));
    return e;
  }

  TrainConfig config_;
  const RunOptions& options_;
  base::Threads& threads_;
  std::unique_ptr<const text::Tokenizer> tokenizer_;
  std::optional<Corpus> corpus_;
  model::Config model_config_;
  std::string fingerprint_;
  double peak_ = 1;
};

}  // namespace

RunEnd train(const TrainConfig& config, const RunOptions& options, base::Threads& threads) {
  return Run(config, options, threads).go();
}

}  // namespace choir::train
