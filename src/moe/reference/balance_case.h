// One balance word beside its reference: what tests of balance losses share.
#pragma once

#include <doctest/doctest.h>

#include <complex>

#include "moe/balance/load.h"
#include "moe/reference/case.h"
#include "moe/reference/losses.h"
#include "tests/gradients/complex_step.h"

namespace choir::moe::reference {

// A batch with random scores and proposals of k experts each.
struct Batch : Case {
  int k;
  std::vector<double> z;
  std::vector<int32_t> proposed;

  Batch(int n, int e, int choices, double scale, uint64_t first = 1)
      : Case(n, 1, e), k(choices), z(random(size_t(n) * size_t(e), scale, first)) {
    proposed = random_choices(n, k, e, 0, first + 1);
    for (int32_t& p : proposed) p = p == e - 1 ? 0 : p;  // shares that differ clearly
    refresh();
  }
  void pad(std::vector<uint8_t> mask) {
    padding = std::move(mask);
    for (size_t i = 0; i < proposed.size(); ++i)
      if (padding[i / size_t(k)]) proposed[i] = -1;
    refresh();
  }
  void refresh() {
    set_scores(narrow(z));
    set_choices(proposed, proposed);
  }
};

template <class Word>
std::vector<float> balance_gradient(const Word& word, Batch& b, float scale = 1) {
  std::vector<float> dz(b.z.size());
  word.backward(b.context(), b.routing, {matrix(dz, b.experts), {}, {}, scale});
  return dz;
}

// Loss and gradient; `loss` is a reference on any scalar, `size` what gradients are measured against.
template <class Word, class Loss>
void check_balance(const Word& word, Batch& b, double size, const Loss& loss) {
  CHECK(word.loss(b.context(), b.routing) == doctest::Approx(loss(b.z)).epsilon(1e-5));
  const auto derivative =
      complex_step(b.z, [&](const std::vector<std::complex<double>>& z) -> std::complex<double> { return loss(z); });
  const auto dz = balance_gradient(word, b, 0.5f);
  for (size_t i = 0; i < dz.size(); ++i) CHECK(std::abs(0.5 * derivative[i] - double(dz[i])) < 1e-5 * size);
}

}  // namespace choir::moe::reference
