// One update of the parameters, and what it did.
#pragma once

#include "model/backward.h"
#include "train/checkpoint.h"
#include "train/data.h"
#include "train/report.h"

namespace choir::train {

// Draws, computes the gradient, clips, updates. What it was made from must outlive it.
class Stepper {
 public:
  // where: the run, for errors; peak: multiply-adds of the machine, FLOP/s.
  Stepper(const TrainConfig& config, const model::Model& model, Parameters& parameters, std::string where, double peak,
          base::Threads& threads)
      : config_(config),
        model_(model),
        parameters_(parameters),
        where_(std::move(where)),
        peak_(peak),
        threads_(threads) {}

  // Changes nothing on disk. Throws Error (input) when loss or gradient are not finite.
  StepReport step(const std::vector<DomainTokens>& domains, Progress& progress);

 private:
  struct Sums;

  void add_gradients(const TokenBatch& batch, float scale, uint64_t seed, Sums& sums);
  void update_routers(const Sums& sums);
  double work(const Sums& sums) const;
  StepReport report(const Sums& sums, const Progress& progress) const;

  const TrainConfig& config_;
  const model::Model& model_;
  Parameters& parameters_;
  std::string where_;
  double peak_;
  base::Threads& threads_;
  model::TrainingActivations activations_;
};

}  // namespace choir::train
