// The finished model of a run.
#pragma once

#include <string>

#include "model/model.h"
#include "train/config.h"

namespace choir::train {

// Writes config.json and model.safetensors into the run's directory, matrices in the config's saved type, norms in
// float. config.model must be the complete config.json.
void save_model(const model::Model& model, const TrainConfig& config, const std::string& directory);

}  // namespace choir::train
