#include "moe/propose/top_k.h"

#include <doctest/doctest.h>

#include <cmath>

#include "moe/reference/case.h"

namespace choir::moe {
namespace {

std::vector<int32_t> proposals(const std::vector<float>& z, int experts, int k) {
  std::vector<int32_t> chosen;
  reference::Case c(static_cast<int>(z.size()) / experts, 1, experts);
  TopK{k}.propose(c.context(), reference::matrix(z, experts), chosen);
  return chosen;
}

TEST_CASE("top_k: the best experts of each token, best first") {
  CHECK(proposals({1, 4, 2, 3, 9, 0, -1, 8}, 4, 2) == std::vector<int32_t>{1, 3, 0, 3});
  CHECK(proposals({-5, -1, -3}, 3, 3) == std::vector<int32_t>{1, 2, 0});
}

TEST_CASE("top_k: of equal scores the lower number wins") {
  CHECK(proposals({2, 2, 2, 2}, 4, 2) == std::vector<int32_t>{0, 1});
  CHECK(proposals({1, 3, 2, 3, 2}, 5, 4) == std::vector<int32_t>{1, 3, 2, 4});
}

TEST_CASE("top_k: NaN scores give distinct experts in range all the same") {
  CHECK(proposals({NAN, 1, NAN, 0}, 4, 2) == std::vector<int32_t>{1, 3});
  CHECK(proposals({NAN, NAN, NAN}, 3, 2) == std::vector<int32_t>{0, 1});
}

TEST_CASE("top_k: agrees with sorting") {
  for (const int experts : {1, 2, 8, 60}) {
    const int k = std::min(experts, 4);
    const auto z = reference::narrow(reference::random(static_cast<size_t>(20 * experts), 1, 1));
    const auto chosen = proposals(z, experts, k);
    for (int t = 0; t < 20; ++t) {
      std::vector<int32_t> order;
      for (int e = 0; e < experts; ++e) order.push_back(e);
      std::ranges::stable_sort(order, [&](int a, int b) { return z[t * experts + a] > z[t * experts + b]; });
      CHECK(std::equal(order.begin(), order.begin() + k, chosen.begin() + t * k));
    }
  }
}

}  // namespace
}  // namespace choir::moe
