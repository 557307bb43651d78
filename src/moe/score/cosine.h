// z_te = scale cos(x_t, w_e) and its backward: what scores by angle share. A zero vector has cosine 0 and no gradient.
#pragma once

#include <cmath>
#include <optional>

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

// The argument kappa: a number, or sqrt_d, which is none and makes z of isotropic tokens standard normal.
std::optional<float> read_kappa(Arguments& arguments, const char* word);
std::string written_kappa(std::optional<float> kappa);
inline float scale_of(std::optional<float> kappa, int width) {
  return kappa ? *kappa : std::sqrt(static_cast<float>(width));
}

void cosine_forward(Matrix<const float> x, const Weight& w, float scale, Matrix<float> z, Threads& threads);

struct CosineBackward {
  Matrix<const float> x, w;  // (N,D), (E,D)
  float scale;
  Matrix<const float> z, dz;  // (N,E)
  Matrix<float> dx, dw;       // added to
};
void cosine_backward(const CosineBackward& step, Threads& threads);

}  // namespace choir::moe
