#include "moe/score/linear.h"

#include <doctest/doctest.h>

#include "moe/reference/case.h"
#include "moe/reference/layer.h"
#include "tests/gradients/complex_step.h"

namespace choir::moe {
namespace {

constexpr int kTokens = 9, kExperts = 5, kWidth = 7;

TEST_CASE("linear score: forward and backward agree with the reference and its complex step") {
  const auto x = reference::random(kTokens * kWidth, 1, 1), w = reference::random(kExperts * kWidth, 1, 2);
  const auto dz = reference::random(kTokens * kExperts, 1, 3);
  std::vector<double> variables = x;
  variables.insert(variables.end(), w.begin(), w.end());
  const auto derivative = complex_step(variables, [&](const std::vector<std::complex<double>>& v) {
    const auto middle = v.begin() + kTokens * kWidth;
    const auto z = reference::linear<std::complex<double>>({v.begin(), middle}, {middle, v.end()}, kWidth);
    std::complex<double> loss = 0;
    for (size_t i = 0; i < z.size(); ++i) loss += dz[i] * z[i];
    return loss;
  });

  reference::Case c(kTokens, kWidth, kExperts);
  c.x = reference::narrow(x);
  c.tensor = {reference::narrow(w)};
  c.shape = {{kExperts, kWidth}};
  const auto weights = c.weights();
  const auto dzf = reference::narrow(dz);
  std::vector<float> z(dz.size()), dx(x.size(), 1.0f), dw(w.size(), -1.0f);
  const tensor::Matrix<float> tensors[] = {reference::matrix(dw, kWidth)};
  const LinearScore score;
  score.forward(c.context(weights), reference::matrix(z, kExperts));
  score.backward(c.context(weights), c.routing, reference::matrix(dzf, kExperts),
                 {reference::matrix(dx, kWidth), tensors, {}});
  CHECK(reference::error(reference::linear(x, w, kWidth), z) < 1e-5);
  for (float& v : dx) v -= 1;  // the backward adds to what is there
  for (float& v : dw) v += 1;
  const auto middle = derivative.begin() + kTokens * kWidth;
  CHECK(reference::error({derivative.begin(), middle}, dx) < 1e-5);
  CHECK(reference::error({middle, derivative.end()}, dw) < 1e-5);
}

}  // namespace
}  // namespace choir::moe
