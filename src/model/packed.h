// Which weights of a model are packed.
#pragma once

#include <string>
#include <unordered_set>

#include "model/config.h"

namespace choir::model {

inline constexpr const char* kHeadName = "lm_head.weight";

// The names of the tensors that linear maps of activations read and nothing else: what Model::packed() packs. The head
// is among them, be it a tensor of its own or not.
std::unordered_set<std::string> names_in_panels(const Config& config);

}  // namespace choir::model
