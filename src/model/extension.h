// What config.json says beyond its family: the block "choir" of layers that differ, and the thresholds of skipping.
#pragma once

#include <string>

#include "io/json.h"
#include "model/config.h"
#include "model/families/family.h"

namespace choir::model {

// Into config.layers, which hold what the family's own keys and the per-layer numbers of experts say. Throws Error
// (input).
void read_extension(const io::Json& json, const std::string& where, Config& config);

// Writes the family's keys for the layers, and the block and thresholds where they are needed, in place of old ones.
void write_extension(const Config& config, const Family& family, io::Json& json);

}  // namespace choir::model
