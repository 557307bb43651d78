// The backward of a weight that each row of a matrix was multiplied with.
#pragma once

#include "base/threads.h"
#include "tensor/view.h"

namespace choir::kernels {

using base::Threads;
using tensor::Matrix;

// y_i = weight_i h_i leads on to dy. dweight_i = <dy_i, h_i>; then dy and h, both (M,F), are multiplied with the
// weight.
void weigh_rows_backward(std::span<const float> weight, Matrix<float> dy, Matrix<float> h, std::span<float> dweight,
                         Threads& threads);

}  // namespace choir::kernels
