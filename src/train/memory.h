// Where the memory of a training run goes, told before it is taken.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "model/backward.h"
#include "train/config.h"

namespace choir::train {

// Bytes that a run holds at once, part by part; a part of 0 bytes is left out.
struct MemoryPlan {
  std::vector<std::pair<std::string, int64_t>> parts;

  int64_t total() const;
  std::string text() const;  // "1362 MB: parameters 166, gradients 166, ..."
};

// Of micro-batches of `rows` tokens. From the sizes alone, within some percent; at most, where routers do not compute
// every pair that they propose.
struct ActivationSizes {
  int64_t activations;  // what blocks keep for their backward, and the gradients on their way
  int64_t forward;      // what a forward without a backward holds instead
  int64_t logits;       // of the rows at hand, with what the losses keep of them
};
ActivationSizes activation_sizes(const model::Model& model, int rows, model::Recompute recompute);

// data: bytes of the tokens. teacher: none, or the model that the run learns from.
MemoryPlan plan_memory(const TrainConfig& config, const model::Model& model, int64_t data, const model::Model* teacher);

}  // namespace choir::train
