// A training run, from text files to a model directory.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/threads.h"
#include "train/config.h"
#include "train/report.h"

namespace choir::train {

struct RunOptions {
  std::string directory;       // the run's; becomes a model when done
  std::string data_directory;  // what the config's paths are relative to
  bool resume = false;         // go on from the last checkpoint
  // Called after each step; false saves a checkpoint and ends the run early.
  std::function<bool(const StepReport&)> on_step;
  std::function<void(const std::string&)> on_note;  // a line about the preparation or an evaluation
};

enum class RunEnd { kFinished, kStopped };

// Writes tokenizer.json, run.json, metrics.jsonl, evaluations.jsonl and checkpoint.safetensors as it goes, and
// config.json with model.safetensors at the end. A resumed run is bit for bit the run that was not interrupted, for any
// number of threads. Throws Error.
RunEnd train(const TrainConfig& config, const RunOptions& options, base::Threads& threads);

}  // namespace choir::train
