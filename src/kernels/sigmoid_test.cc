#include "kernels/sigmoid.h"

#include <doctest/doctest.h>

#include <cmath>

#include "kernels/reference/compare.h"

namespace choir::kernels {
namespace {

double logistic_of(double z) { return z < 0 ? std::exp(z) / (1 + std::exp(z)) : 1 / (1 + std::exp(-z)); }

TEST_CASE("sigmoid: every version agrees with double at ten scales, values and shares") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    Threads threads(2);
    for (const int cols : {1, 7, 16, 70})
      for (const double size : reference::scales(1e-3, 60)) {
        const int rows = 9;
        const auto z = reference::random(static_cast<size_t>(rows * cols), size, 1);
        const auto zf = reference::narrow(z);
        std::vector<float> s(zf.size()), p(zf.size());
        sigmoid_forward({zf.data(), rows, cols}, {s.data(), rows, cols}, threads);
        sigmoid_shares({zf.data(), rows, cols}, {p.data(), rows, cols}, threads);
        for (int t = 0; t < rows; ++t) {
          double sum = 0;
          for (int e = 0; e < cols; ++e) sum += logistic_of(z[t * cols + e]);
          for (int e = 0; e < cols; ++e) {
            const double want = logistic_of(z[t * cols + e]);
            CHECK(std::abs(static_cast<double>(s[t * cols + e]) - want) < 1e-6);
            CHECK(std::abs(static_cast<double>(p[t * cols + e]) - want / sum) < 1e-6);
          }
        }
      }
  });
}

TEST_CASE("sigmoid: shares sum to one where every value underflows, and -infinity has none") {
  Threads threads(1);
  const std::vector<float> z{-200, -201, -200, -HUGE_VALF};
  std::vector<float> p(4);
  sigmoid_shares({z.data(), 1, 4}, {p.data(), 1, 4}, threads);
  const float part = 1 / (2 + std::exp(-1.0f));
  CHECK(p[0] == doctest::Approx(part).epsilon(1e-5));
  CHECK(p[1] == doctest::Approx(part * std::exp(-1.0f)).epsilon(1e-5));
  CHECK(p[0] + p[1] + p[2] == doctest::Approx(1).epsilon(1e-6));
  CHECK(p[3] == 0);
}

TEST_CASE("sigmoid: a row alone has its bits, in place too") {
  Threads threads(3);
  const auto z = reference::narrow(reference::random(130 * 20, 2, 3));
  std::vector<float> all(z.size()), place = z, row(20);
  sigmoid_forward({z.data(), 130, 20}, {all.data(), 130, 20}, threads);
  sigmoid_forward({place.data(), 130, 20}, {place.data(), 130, 20}, threads);
  CHECK(place == all);
  for (int t = 0; t < 130; ++t) {
    sigmoid_forward({z.data() + t * 20, 1, 20}, {row.data(), 1, 20}, threads);
    CHECK(std::equal(row.begin(), row.end(), all.begin() + t * 20));
  }
}

}  // namespace
}  // namespace choir::kernels
