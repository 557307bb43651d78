// A training run, from text files to a model directory.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/threads.h"
#include "train/config.h"

namespace choir::train {

// What one step did.
struct StepReport {
  int step = 0, steps = 0;
  double loss = 0;           // cross-entropy of the step's batch before the update, nats a token
  double balance_loss = 0;   // summed over layers, weights included
  double gradient_norm = 0;  // before clipping
  double learning_rate = 0;
  int64_t tokens = 0;  // of the run so far
  double seconds = 0;  // of this step
  double tokens_per_second = 0;
  double share_of_peak = 0;  // arithmetic of the model's products over what the machine's multiply-add units can do
  double max_over_mean_load = 0;  // busiest expert against the mean, the worst layer
};

struct RunOptions {
  std::string directory;       // the run's; becomes a model when done
  std::string data_directory;  // what the config's paths are relative to
  bool resume = false;         // go on from the last checkpoint
  // Called after each step; false saves a checkpoint and ends the run early.
  std::function<bool(const StepReport&)> on_step;
  std::function<void(const std::string&)> on_note;  // one line about the preparation
};

enum class RunEnd { kFinished, kStopped };

// Writes tokenizer.json, metrics.jsonl, checkpoint.safetensors as it goes, and config.json with model.safetensors at
// the end. A resumed run is bit for bit the run that was not interrupted, for any number of threads. Throws Error.
RunEnd train(const TrainConfig& config, const RunOptions& options, base::Threads& threads);

}  // namespace choir::train
