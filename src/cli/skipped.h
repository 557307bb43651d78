// Skipping as a call asks for it, and what it did, as every verb tells it.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "model/expert_counts.h"

namespace choir::cli {

// The model, or where --skip is given the same with another rule of skipping in every layer: none, count=2, tail=0.3,
// ser=0.2, or for two experts a token 0.5. Throws Error (usage) that names the option.
model::Model skipping_as_asked(const std::string& skip, const model::Model& model);

// Adds skipped_share, bytes_per_token, and layers of layer, experts_run, experts_skipped, skipped_share.
void add_skipped(const model::Model& model, std::span<const model::ExpertCounts> layers, nlohmann::ordered_json& json);

// One line on stderr, where anything was skipped.
void tell_skipped(std::span<const model::ExpertCounts> layers);

}  // namespace choir::cli
