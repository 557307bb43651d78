// score "linear": the affinity of token t for expert e is the logit z_te = x_t . w_e.
#pragma once

#include "base/threads.h"
#include "tensor/view.h"

namespace choir::moe {

struct LinearScore {
  // z (N,E) from x (N,D) and the gate w (E,D).
  void forward(tensor::Matrix<const float> x, const tensor::Weight& w, tensor::Matrix<float> z,
               base::Threads& threads) const;

  struct Gradient {
    tensor::Matrix<float> dx, dw;  // added to
  };
  void backward(tensor::Matrix<const float> dz, tensor::Matrix<const float> x, tensor::Matrix<const float> w,
                const Gradient& gradient, base::Threads& threads) const;
};

}  // namespace choir::moe
