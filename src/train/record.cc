#include "train/record.h"

#include <filesystem>

namespace choir::train {

RunRecord::RunRecord(const TrainConfig& config, const std::string& directory, int step)
    : metrics_(directory + "/metrics.jsonl", step) {
  seconds_ = metrics_.seconds();
  const std::string evaluations = directory + "/evaluations.jsonl";  // without new ones, its later lines still go
  std::error_code ignored;
  if (config.evaluation.every > 0 || std::filesystem::exists(evaluations, ignored))
    evaluations_.emplace(evaluations, step);
  if (config.tensorboard) events_.emplace(directory, step);
}

void RunRecord::add(const StepReport& report) {
  seconds_ += report.seconds;
  metrics_.add(to_json(report));
  if (events_) events_->add(report.step, scalars(report));
}

void RunRecord::add(int step, Evaluation evaluation) {
  evaluation.step = step;
  evaluation.seconds = seconds_;
  evaluations_->add(to_json(evaluation));
  if (events_) events_->add(step, scalars(evaluation));
  flush();
}

void RunRecord::sync() {
  flush();
  metrics_.sync();
  if (evaluations_) evaluations_->sync();
}

void RunRecord::flush() {
  metrics_.flush();
  if (evaluations_) evaluations_->flush();
  if (events_) events_->flush();
}

}  // namespace choir::train
