// The directory of a run: whose it is, and what the run says of itself at its beginning.
#pragma once

#include <string>

#include "model/config.h"
#include "text/tokenizer.h"
#include "train/config.h"
#include "train/memory.h"

namespace choir::train {

// Throws Error (usage) unless `directory` belongs to a run, by its run.json or checkpoint.safetensors, or is empty.
// What remove_leftovers takes away counts as nothing.
void check_resumable(const std::string& directory);

// Removes the half files of a killed run: regular files NAME.partial.DIGITS, with a NAME that runs write.
void remove_leftovers(const std::string& directory);

// Writes tokenizer.json, unless it is there, and run.json with the memory that is planned, for whoever compares runs.
void write_beginning(const std::string& directory, const TrainConfig& config, const model::Config& model_config,
                     const text::Tokenizer& tokenizer, const MemoryPlan& memory);

}  // namespace choir::train
