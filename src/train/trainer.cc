#include "train/trainer.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "kernels/isa.h"
#include "kernels/peak.h"
#include "train/corpus.h"
#include "train/record.h"
#include "train/run_directory.h"
#include "train/run_model.h"
#include "train/step.h"
#include "train/warm_start.h"

namespace choir::train {
namespace {

bool exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

class Run {
 public:
  Run(const TrainConfig& config, const RunOptions& options, base::Threads& threads)
      : config_(config), options_(options), threads_(threads) {}

  RunEnd go() {
    if (options_.resume) check_resumable(options_.directory);
    complete_model(config_, options_.data_directory);
    check_model(config_);
    prepare();
    Parameters parameters(model_config_, config_.moments);
    parameters.freeze(config_.freeze);
    Progress progress = begin(parameters);
    const model::Model model(model_config_, parameters.weights());
    remove_leftovers(options_.directory);
    const MemoryPlan memory = plan_memory(config_, model, corpus_->bytes(), teacher_ ? &teacher_->model() : nullptr);
    note("memory: " + memory.text());
    write_beginning(options_.directory, config_, model_config_, *tokenizer_, memory);
    RunRecord record(config_, options_.directory, progress.step);
    Stepper stepper(config_, model, parameters, peak_, threads_, teacher_ ? &*teacher_ : nullptr);
    while (progress.step < config_.schedule.steps) {
      const StepReport report = stepper.step(corpus_->draw(progress), progress);
      record.add(report);
      if (!report.finite()) refuse(report, record);
      if (evaluates(progress.step)) record.add(progress.step, evaluate_model(model, progress.step));
      const bool stop = options_.on_step && !options_.on_step(report);
      const bool last = progress.step == config_.schedule.steps;
      if (stop || last || progress.step % config_.checkpoint_every == 0) {
        record.sync();
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

  // A run that goes on keeps the tokenizer it has, whatever the configuration names by now.
  std::unique_ptr<const text::Tokenizer> tokenizer() const {
    const std::string saved = options_.directory + "/tokenizer.json";
    if (options_.resume && exists(saved)) return text::load_tokenizer(saved);
    if (config_.tokenizer.path.empty()) return learn_tokenizer(config_, options_.data_directory);
    return text::load_tokenizer(place_of(options_.data_directory, config_.tokenizer.path));
  }

  void prepare() {
    const base::Stopwatch watch;
    tokenizer_ = tokenizer();
    if (const std::string& teacher = config_.distillation.teacher; !teacher.empty())
      teacher_.emplace(place_of(options_.data_directory, teacher), *tokenizer_, config_.sequence_length);
    corpus_.emplace(config_, options_.data_directory, *tokenizer_);
    const std::string examples = corpus_->examples() > 0 ? fmt::format(", {} examples", corpus_->examples()) : "";
    note(fmt::format("data: {} tokens in {} domains{}, vocabulary {}, {:.1f} s", corpus_->tokens(), corpus_->domains(),
                     examples, tokenizer_->vocab_size(), watch.seconds()));
    model_config_ = prepare_model(config_, *tokenizer_);
    const auto count = model::count_parameters(model_config_);
    note(fmt::format("model: {} parameters, {} active; router {}", count.total, count.active,
                     model::router_expression(model_config_, model::typical_layer(model_config_))));
    fingerprint_ = fingerprint();
    peak_ = kernels::measure_peak_flops(threads_);
    note(fmt::format("machine: {} threads, {:.0f} GFLOP/s of multiply-adds ({})", threads_.count(), peak_ / 1e9,
                     kernels::name_of(kernels::best_isa())));
    if (config_.sums == kernels::Sums::kRounded && kernels::best_isa() != kernels::Isa::kBf16)
      note("precision: products stay in float32, which this machine multiplies faster than bfloat16");
  }

  // All that changes what a step does. It must be the same for a run to go on; steps and learning rates need not.
  std::string fingerprint() const {
    const TrainConfig& c = config_;
    nlohmann::ordered_json print{{"model", c.model},
                                 {"data", corpus_->hash()},
                                 {"sft", c.task == Task::kExamples},
                                 {"batch", {c.accumulate, c.batch_size, c.sequence_length}},
                                 {"adamw", {c.beta1, c.beta2, c.epsilon, c.weight_decay, c.gradient_clip}},
                                 {"moments", tensor::name_of(c.moments)},
                                 {"freeze", c.freeze},
                                 {"nodes", {c.placement.nodes, c.placement.pin == Placement::Pin::kDomain}},
                                 {"seed", c.seed}};
    if (c.sums == kernels::Sums::kRounded) print["precision"] = "bfloat16";
    if (teacher_) print["teacher"] = {teacher_->hash(), c.distillation.weight, c.distillation.temperature};
    for (const Domain& domain : c.domains) print["domains"].push_back({domain.name, domain.weight});
    return print.dump();
  }

  Progress begin(Parameters& parameters) const {
    const std::string checkpoint = checkpoint_path(options_.directory);
    if (options_.resume && exists(checkpoint)) {
      const Progress progress = load_checkpoint(options_.directory, fingerprint_, parameters);
      corpus_->check(progress, checkpoint);
      return progress;
    }
    parameters.initialize(config_.seed);
    if (!config_.from.empty()) {
      const std::string from = place_of(options_.data_directory, config_.from);
      note(warm_start({from, config_.upcycle_noise, config_.seed + 2}, model_config_, parameters));
    }
    return {0, base::Rng(config_.seed + 1).state()};
  }

  [[noreturn]] void refuse(const StepReport& report, RunRecord& record) const {
    record.flush();
    base::input_error(fmt::format("the loss is not a number at step {}", report.step), options_.directory,
                      "lower the learning rate and resume from the last checkpoint");
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
  std::optional<Teacher> teacher_;
  model::Config model_config_;
  std::string fingerprint_;
  double peak_ = 1;
};

}  // namespace

RunEnd train(const TrainConfig& config, const RunOptions& options, base::Threads& threads) {
  return Run(config, options, threads).go();
}

}  // namespace choir::train
