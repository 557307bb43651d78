// The Mixtral family's names: keys of config.json and tensors on disk (transformers, models/mixtral).
#pragma once

#include <string>

namespace choir::model::mixtral {

inline constexpr const char* kFamily = "mixtral";
inline constexpr const char* kExpertsKey = "num_local_experts";
inline constexpr const char* kTopKKey = "num_experts_per_tok";
inline constexpr const char* kExpertWidthKey = "intermediate_size";
inline constexpr double kRopeTheta = 1e6;  // where the file says nothing

inline std::string block(int layer) { return "model.layers." + std::to_string(layer) + "."; }
inline std::string expert(int layer, int e) {
  return block(layer) + "block_sparse_moe.experts." + std::to_string(e) + ".";
}

}  // namespace choir::model::mixtral
