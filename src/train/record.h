// What a run writes down while it goes: lines for scripts, events for TensorBoard.
#pragma once

#include <optional>

#include "train/metrics.h"
#include "train/tensorboard.h"

namespace choir::train {

class RunRecord {
 public:
  // Of a run that stands at `step`.
  RunRecord(const TrainConfig& config, const std::string& directory, int step);

  void add(const StepReport& report);
  void add(int step, Evaluation evaluation);  // made after `step`; gets the seconds of training before it; flushes
  void flush();                               // Throws Error (input) when the disk refuses
  void sync();                                // likewise; lines survive a loss of power

 private:
  double seconds_ = 0;  // of all steps, those before a resume among them
  MetricsFile metrics_;
  std::optional<MetricsFile> evaluations_;
  std::optional<EventFile> events_;
};

}  // namespace choir::train
