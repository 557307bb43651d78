// The forward of a model that is in memory one layer at a time, and of that layer only the experts that work.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "model/forward.h"
#include "model/source.h"

namespace choir::model {

// The type that a tensor is rounded to before it computes; nothing: as it is.
using Rounding = std::function<std::optional<tensor::DType>(const TensorInfo&)>;

// logits (ids,V) of one sequence, as forward() has them but for the order of some sums. Memory holds a layer without
// its experts, and the experts that these ids choose: few ids keep it small.
void layerwise_forward(Source& source, std::span<const int32_t> ids, const Rounding& rounding, Matrix<float> logits,
                       Threads& threads);

// Ids to look at a model with: the same for every call, and so few that their experts take little memory.
std::vector<int32_t> probe_ids(const Config& config);

}  // namespace choir::model
