#include <fmt/format.h>

#include <filesystem>

#include "base/error.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "train/metrics.h"
#include "train/trainer.h"

namespace choir::cli {
namespace {

namespace fs = std::filesystem;

void prepare_directory(const Train& o) {
  std::error_code failure;
  if (!o.resume && fs::exists(o.out) && !fs::is_empty(o.out, failure))
    base::usage_error("the output exists", o.out, "choose another path, or go on with --resume");
  if (o.resume && !fs::is_directory(o.out)) base::usage_error("no run to resume", o.out, "start it without --resume");
  fs::create_directory(o.out, failure);
  if (failure) base::usage_error("cannot create the output", o.out, failure.message());
}

// A run that fails before it has written anything leaves no empty directory in the way of the next try.
train::RunEnd train_or_leave_nothing(const train::TrainConfig& config, const train::RunOptions& options,
                                     base::Threads& threads) {
  try {
    return train::train(config, options, threads);
  } catch (...) {
    if (std::error_code ignored; fs::is_empty(options.directory, ignored)) fs::remove(options.directory, ignored);
    throw;
  }
}

std::string line(const train::StepReport& r) {
  const double left = (r.steps - r.step) * r.seconds;
  return fmt::format(
      "step {:6}/{} {:5.1f}%  loss {:.4f}  balance {:.4f}  norm {:6.3f}  rate {:.2e}  {:6.0f} tokens/s  "
      "{:4.1f}% of peak  load {:.2f}x  {:.0f} min left",
      r.step, r.steps, 100.0 * r.step / r.steps, r.loss, r.balance_loss, r.gradient_norm, r.learning_rate,
      r.tokens_per_second, 100 * r.share_of_peak, r.max_over_mean_load, left / 60);
}

}  // namespace

void run(const Train& o, const Common& common) {
  train::TrainConfig config = train::read_train_config(o.config);
  if (common.seed_given) config.seed = common.seed;
  prepare_directory(o);
  base::Threads threads(common.threads);
  ProgressLine progress;
  train::RunOptions options;
  options.directory = o.out;
  options.data_directory = o.data.empty() ? fs::path(o.config).parent_path().string() : o.data;
  if (options.data_directory.empty()) options.data_directory = ".";
  options.resume = o.resume;
  options.on_note = [&](const std::string& note) { fmt::print(stderr, "{}\n", note); };
  options.on_step = [&](const train::StepReport& report) {
    interrupted();  // once a step has been reported, a signal no longer kills: the next one is finished and saved
    if (common.json) fmt::print("{}\n", train::to_json(report));
    std::fflush(stdout);
    if (stderr_is_terminal())
      progress.show(line(report));
    else if (report.step % 50 == 0 || report.step == report.steps)
      fmt::print(stderr, "{}\n", line(report));
    return !interrupted();
  };
  if (train_or_leave_nothing(config, options, threads) == train::RunEnd::kStopped)
    throw base::Error(base::Fault::kInterrupted, "interrupted", o.out, "go on with --resume");
}

}  // namespace choir::cli
