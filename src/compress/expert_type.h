// Experts at fewer bits: their numbers rounded to another format that the engine stores.
#pragma once

#include <optional>
#include <string_view>

#include "compress/mixture.h"

namespace choir::compress {

// A row for each format that experts can be stored in.
struct ExpertType {
  std::string_view name;
  tensor::DType type;
};
inline constexpr ExpertType kExpertTypes[] = {
    {"f32", tensor::DType::kF32},
    {"bf16", tensor::DType::kBF16},
    {"f16", tensor::DType::kF16},
};

// The model with every projection of every expert rounded to nearest in this format; routers, attention, embeddings and
// norms as they are. Nothing where a number is beyond what the format holds. Copies what changes its format.
std::optional<Model> with_expert_type(const Model& model, tensor::DType type);

// The format of all experts; nothing where they differ.
std::optional<tensor::DType> expert_type(const Model& model);

}  // namespace choir::compress
