#include "kernels/adamw.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "kernels/reference/compare.h"

namespace choir::kernels {
namespace {

struct State {
  std::vector<float> value, first, second;
  bool operator==(const State&) const = default;
};

AdamwStep step_of(int step) { return {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, step, 0.5f}; }

State run(size_t size, double scale, int threads) {
  Threads pool(threads);
  State s{reference::narrow(reference::random(size, 1, 1)), std::vector<float>(size), std::vector<float>(size)};
  for (int step = 1; step <= 5; ++step) {
    const auto gradient = reference::narrow(reference::random(size, scale, static_cast<uint64_t>(step) + 10));
    adamw(step_of(step), {s.value, s.first, s.second, gradient}, pool);
  }
  return s;
}

// Algorithm 2 of arXiv 1711.05101 in double, the schedule multiplier inside the learning rate.
std::vector<double> expected(size_t size, double scale) {
  std::vector<double> value = reference::random(size, 1, 1), m(size), v(size);
  for (int step = 1; step <= 5; ++step) {
    const auto gradient = reference::random(size, scale, static_cast<uint64_t>(step) + 10);
    for (size_t i = 0; i < size; ++i) {
      const double g = 0.5 * gradient[i];
      m[i] = 0.9 * m[i] + 0.1 * g;
      v[i] = 0.95 * v[i] + 0.05 * g * g;
      const double mean = m[i] / (1 - std::pow(0.9, step)), square = v[i] / (1 - std::pow(0.95, step));
      value[i] -= 1e-2 * (mean / (std::sqrt(square) + 1e-8) + 0.1 * value[i]);
    }
  }
  return value;
}

TEST_CASE("adamw: every version follows the algorithm in double at ten scales") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    for (const double scale : reference::scales(1e-6, 1e3)) {
      CAPTURE(scale);
      CHECK(reference::error(expected(1003, scale), run(1003, scale, 1).value) < 1e-6);
    }
  });
}

TEST_CASE("adamw: a parameter without gradient decays alone") {
  std::vector<float> value{2}, first{0}, second{0}, gradient{0};
  Threads pool(1);
  adamw(step_of(1), {value, first, second, gradient}, pool);
  CHECK(value[0] == doctest::Approx(2 - 1e-2 * 0.1 * 2));
  CHECK_THROWS(adamw(step_of(0), {value, first, second, gradient}, pool));
}

TEST_CASE("adamw: the same bits for any number of threads") {
  const State one = run(40000, 1, 1);
  CHECK(run(40000, 1, 2) == one);
  CHECK(run(40000, 1, 3) == one);
}

struct NarrowState {
  std::vector<float> value;
  std::vector<tensor::BF16> first, second;

  explicit NarrowState(size_t size) : value(size), first(size), second(size) {}
  bool operator==(const NarrowState& other) const {
    const auto bits = [](const tensor::BF16& a, const tensor::BF16& b) { return a.bits == b.bits; };
    return value == other.value && std::ranges::equal(first, other.first, bits) &&
           std::ranges::equal(second, other.second, bits);
  }
};

TEST_CASE("adamw, narrow moments: one step is that of wide ones, the moments its neighbours, even on the mean") {
  constexpr size_t kSize = 40000;
  reference::for_each_isa([&](Isa isa) {
    CAPTURE(name_of(isa));
    Threads pool(1);
    NarrowState s(kSize);
    std::vector<float> value(kSize), first(kSize), second(kSize);
    const auto gradient = reference::narrow(reference::random(kSize, 1, 5));
    adamw(step_of(1), AdamwNarrowState{s.value, s.first, s.second, gradient}, pool);
    adamw(step_of(1), AdamwState{value, first, second, gradient}, pool);
    double worst = 0, bias = 0, apart = 0;
    for (size_t i = 0; i < kSize; ++i) {
      worst = std::max(worst, static_cast<double>(std::abs(value[i] - s.value[i])));
      for (const auto& [wide, narrow] : {std::pair{first[i], s.first[i]}, std::pair{second[i], s.second[i]}}) {
        const double off = (static_cast<double>(static_cast<float>(narrow)) / static_cast<double>(wide)) - 1;
        apart = std::max(apart, std::abs(off));
        bias += off / kSize / 2;
      }
    }
    CHECK(worst < 1e-7);
    CHECK(apart < 1.0 / 128);
    CHECK(apart > 1.0 / 256);  // not to the nearest
    CHECK(std::abs(bias) < 5e-5);
  });
}

TEST_CASE("adamw, narrow moments: neither threads nor how parameters are cut change a bit") {
  constexpr size_t kSize = 50000;
  const auto gradient = reference::narrow(reference::random(kSize, 1, 5));
  const auto run_cut = [&](int threads, size_t cut) {
    Threads pool(threads);
    NarrowState s(kSize);
    for (int step = 1; step <= 3; ++step)
      for (const auto& [begin, size] : {std::pair{size_t{0}, cut}, std::pair{cut, kSize - cut}})
        adamw(
            step_of(step),
            AdamwNarrowState{std::span(s.value).subspan(begin, size), std::span(s.first).subspan(begin, size),
                             std::span(s.second).subspan(begin, size), std::span(gradient).subspan(begin, size), begin},
            pool);
    return s;
  };
  CHECK(run_cut(1, 16) == run_cut(3, 48000));
}

TEST_CASE("sum_of_squares: agrees with double, the same bits for any number of threads") {
  Threads one(1), three(3);
  for (const size_t size : {size_t{0}, size_t{1}, size_t{1000}, size_t{65537}, size_t{4300000}})
    reference::for_each_isa([&](Isa) {
      const std::vector<float> x = reference::narrow(reference::random(std::min(size, size_t{70000}), 3, 1));
      std::vector<float> all(size);
      for (size_t i = 0; i < size; ++i) all[i] = x[i % x.size()];
      double want = 0;
      for (const float v : all) want += static_cast<double>(v) * static_cast<double>(v);
      CHECK(std::abs(sum_of_squares(all, one) - want) <= 1e-6 * want);
      CHECK(sum_of_squares(all, three) == sum_of_squares(all, one));
    });
}

}  // namespace
}  // namespace choir::kernels
