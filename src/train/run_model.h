// The model of a run: from the configuration, and into a directory.
#pragma once

#include "model/model.h"
#include "text/tokenizer.h"
#include "train/config.h"

namespace choir::train {

// Gives a configuration without a model that of the directory `from`. Throws Error (input).
void complete_model(TrainConfig& config, const std::string& data_directory);

// Throws Error (input) for a model that nobody could train, or sequences that it does not take: before any data is
// read.
void check_model(const TrainConfig& config);

// The model for this tokenizer. config.model becomes its config.json, the router written out. Throws Error (input).
model::Config prepare_model(TrainConfig& config, const text::Tokenizer& tokenizer);

// Writes config.json and model.safetensors into the run's directory, matrices in the config's saved type, norms in
// float. config.model must be the complete config.json.
void save_model(const model::Model& model, const TrainConfig& config, const std::string& directory);

}  // namespace choir::train
