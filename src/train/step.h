// One update of the parameters, and what it did.
#pragma once

#include "model/backward.h"
#include "train/checkpoint.h"
#include "train/data.h"
#include "train/report.h"
#include "train/teacher.h"

namespace choir::train {

// Computes the gradient, clips, updates. What it was made from must outlive it.
class Stepper {
 public:
  // peak: multiply-adds of the machine, FLOP/s. teacher: none where the targets teach alone.
  Stepper(const TrainConfig& config, const model::Model& model, Parameters& parameters, double peak,
          base::Threads& threads, Teacher* teacher = nullptr);

  // Each counted target of all micro-batches weighs the same. Load losses take the shares of all of them; other balance
  // losses are those of the micro-batches, which weigh by their tokens, counted or not: routers see them all. A
  // teacher answers each micro-batch once.
  // A step whose loss or gradient is not finite changes no parameter: its report says so, and the run is over.
  StepReport step(std::span<const TokenBatch> batches, Progress& progress);

 private:
  struct Sums;

  std::vector<std::vector<float>> shares(std::span<const TokenBatch> batches, uint64_t seed);
  void add_gradients(const TokenBatch& batch, const model::RoutingOptions& routing, const model::LossScales& scales,
                     Sums& sums);
  void update_routers(const Sums& sums);
  double work(const Sums& sums) const;
  StepReport report(const Sums& sums, const Progress& progress) const;

  const TrainConfig& config_;
  const model::Model& model_;
  Parameters& parameters_;
  double peak_;
  base::Threads& threads_;
  Teacher* teacher_;
  ForwardWork work_;
  model::TrainingActivations activations_;
  model::Scratch scratch_;  // of the sweep that counts proposals
};

}  // namespace choir::train
