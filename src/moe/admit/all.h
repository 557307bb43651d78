// admit "all": every expert takes every token that proposed it.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/view.h"

namespace choir::moe {

struct AdmitAll {
  void admit(tensor::Matrix<const float>, int, std::vector<int32_t>&) const {}
};

}  // namespace choir::moe
