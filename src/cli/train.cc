#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "cli/operator_table.h"
#include "cli/terminal.h"
#include "cli/tracing.h"
#include "train/metrics.h"
#include "train/trainer.h"

namespace choir::cli {
namespace {

namespace fs = std::filesystem;

void prepare_directory(const Train& o) {
  std::error_code failure;
  const bool there = fs::is_directory(o.out, failure);
  if (o.resume && !there) base::usage_error("no run to resume", o.out, "start it without --resume");
  if (!o.resume && fs::exists(fs::symlink_status(o.out, failure)) && !(there && fs::is_empty(o.out, failure)))
    base::usage_error("the output exists", o.out, "choose another path, or go on with --resume");
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

// The range over the layers; "none" where one has no limit.
std::string capacity(const std::vector<train::LayerReport>& layers) {
  int least = 0, most = 0;
  for (const train::LayerReport& layer : layers) {
    if (!layer.capacity) return "none";
    least = least == 0 ? *layer.capacity : std::min(least, *layer.capacity);
    most = std::max(most, *layer.capacity);
  }
  return least == most ? fmt::format("{}", most) : fmt::format("{}-{}", least, most);
}

std::string line(const train::StepReport& r) {
  const double left = (r.steps - r.step) * r.seconds;
  return fmt::format(
      "step {:6}/{}  loss {:.4f}  {:6.0f} tokens/s  {:4.1f}% of peak  {:5.1f}% of pairs  {:4.1f}% dropped  "
      "load {:.2f}x  capacity {}  {:.0f} min left",
      r.step, r.steps, r.loss, r.tokens_per_second, 100 * r.share_of_peak, 100 * r.processed_share,
      100 * r.dropped_token_share, r.max_over_mean_load, capacity(r.layers), left / 60);
}

// Means of calls; the first of each kind, which takes memory for the first time, only where it is alone.
void print_tables(const base::Profile& profile, base::Threads& threads) {
  const std::vector<base::PhaseTotal> phases = base::summarize(profile, true);
  const runtime::Ceilings ceilings = runtime::measure_ceilings(threads);
  for (const base::PhaseTotal& phase : phases)
    fmt::print(stderr, "\n{}mean of {}\n", text_of(table_of(phase, ceilings, threads.count())), phase.calls);
}

}  // namespace

void run(const Train& o, const Common& common) {
  train::TrainConfig config = train::read_train_config(o.config);
  if (common.seed_given) config.seed = common.seed;
  check_trace(o.trace);
  prepare_directory(o);
  base::Threads threads(common.threads, common.placement());
  const auto profile = profile_for(o.trace, threads);
  ProgressLine progress;
  train::RunOptions options;
  options.directory = o.out;
  options.data_directory = o.data.empty() ? fs::path(o.config).parent_path().string() : o.data;
  if (options.data_directory.empty()) options.data_directory = ".";
  options.resume = o.resume;
  options.on_note = [&](const std::string& note) {
    fmt::print(stderr, "{}{}\n", stderr_is_terminal() ? "\r\x1b[K" : "", note);
  };
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
  const train::RunEnd end = train_or_leave_nothing(config, options, threads);
  if (profile) {
    write_trace(o.trace, *profile);
    print_tables(*profile, threads);
  }
  if (end == train::RunEnd::kStopped)
    throw base::Error(base::Fault::kInterrupted, "interrupted", o.out, "go on with --resume");
}

}  // namespace choir::cli
