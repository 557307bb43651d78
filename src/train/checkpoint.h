// The state of a run on disk: enough to go on bit for bit.
#pragma once

#include <string>

#include "base/rng.h"
#include "train/parameters.h"

namespace choir::train {

struct Progress {
  int step = 0;  // finished
  base::Rng::State data_rng{};
  int64_t tokens = 0;           // that the steps took
  int64_t epoch = 0, next = 0;  // of examples: which time through them, and the next in its order
};

// Writes DIR/checkpoint.safetensors, whole or not at all: a crash leaves the one before.
void save_checkpoint(const std::string& directory, const Parameters& parameters, const Progress& progress,
                     const std::string& fingerprint);

// Fills `parameters`. Throws Error (input) when the file is damaged or belongs to another configuration.
Progress load_checkpoint(const std::string& directory, const std::string& fingerprint, Parameters& parameters);

std::string checkpoint_path(const std::string& directory);

}  // namespace choir::train
