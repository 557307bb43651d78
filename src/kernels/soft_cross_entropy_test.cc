#include "kernels/soft_cross_entropy.h"

#include <doctest/doctest.h>

#include <limits>

#include "kernels/cross_entropy.h"
#include "kernels/reference/compare.h"
#include "kernels/reference/soft_cross_entropy.h"
#include "tests/gradients/complex_step.h"

namespace choir::kernels {
namespace {

struct Problem {
  int rows, cols;
  float temperature;
  std::vector<double> logits, teacher;
  std::vector<int32_t> target;

  Problem(int r, int c, double size, float heat)
      : rows(r),
        cols(c),
        temperature(heat),
        logits(reference::random(static_cast<size_t>(r * c), size, 1)),
        teacher(reference::random(static_cast<size_t>(r * c), size, 2)) {
    for (int t = 0; t < r; ++t) target.push_back(t % 5 == 3 ? -1 : t * 7 % c);
  }
  std::vector<double> row(const std::vector<double>& m, int t) const {
    return {m.begin() + t * cols, m.begin() + (t + 1) * cols};
  }
};

struct Result {
  std::vector<float> hard, loss, gradient;
  bool operator==(const Result&) const = default;
};

constexpr MixedScale kBoth{0.25f, 0.5f};

Result run(const Problem& p, int threads, MixedScale scale = kBoth) {
  Threads pool(threads);
  const auto rows = static_cast<size_t>(p.rows);
  std::vector<float> log_sum(rows), student(rows), of_teacher(rows);
  const std::vector<float> teacher = reference::narrow(p.teacher);
  Result r{std::vector<float>(rows), std::vector<float>(rows), reference::narrow(p.logits)};
  const Matrix<float> logits(r.gradient.data(), p.rows, p.cols);
  const SoftTargets soft{{teacher.data(), p.rows, p.cols}, p.target, p.temperature};
  const SoftSums sums{student, of_teacher};
  cross_entropy_forward(logits, p.target, r.hard, log_sum, pool);
  soft_cross_entropy_forward(logits, soft, r.loss, sums, pool);
  mixed_cross_entropy_backward(logits, soft, log_sum, sums, scale, pool);
  return r;
}

std::vector<double> expected_loss(const Problem& p) {
  std::vector<double> loss;
  for (int t = 0; t < p.rows; ++t)
    loss.push_back(p.target[static_cast<size_t>(t)] < 0
                       ? 0
                       : reference::soft_cross_entropy(p.row(p.logits, t), p.row(p.teacher, t),
                                                       static_cast<double>(p.temperature)));
  return loss;
}

std::vector<double> expected_gradient(const Problem& p, MixedScale scale) {
  std::vector<double> gradient;
  for (int t = 0; t < p.rows; ++t) {
    const int32_t target = p.target[static_cast<size_t>(t)];
    const auto hard = reference::cross_entropy_backward(p.row(p.logits, t), static_cast<size_t>(std::max(target, 0)));
    const auto soft = reference::soft_cross_entropy_backward(p.row(p.logits, t), p.row(p.teacher, t),
                                                             static_cast<double>(p.temperature));
    for (size_t v = 0; v < hard.size(); ++v)
      gradient.push_back(
          target < 0 ? 0 : static_cast<double>(scale.hard) * hard[v] + static_cast<double>(scale.soft) * soft[v]);
  }
  return gradient;
}

double most_apart(const std::vector<double>& expected, const std::vector<float>& got) {
  REQUIRE(expected.size() == got.size());
  double most = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double apart = std::abs(expected[i] - static_cast<double>(got[i]));
    most = std::isnan(apart) ? HUGE_VAL : std::max(most, apart);
  }
  return most;
}

TEST_CASE("soft_cross_entropy: the double backward agrees with the complex step") {
  for (const double temperature : {0.5, 1.0, 3.0})
    for (const double size : reference::scales(1e-3, 30)) {
      const std::vector<double> logits = reference::random(9, size, 5), teacher = reference::random(9, size, 6);
      const auto numeric = complex_step(logits, [&](const std::vector<std::complex<double>>& z) {
        return reference::soft_cross_entropy(z, teacher, temperature);
      });
      const auto exact = reference::soft_cross_entropy_backward(logits, teacher, temperature);
      CHECK(reference::error(numeric, exact) < 1e-12);
    }
}

// Probabilities carry 1e-7 of themselves; what two models differ by is no better known, however small it is.
TEST_CASE("soft_cross_entropy: every version agrees with the reference at ten scales") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    for (const float temperature : {0.5f, 1.0f, 3.0f})
      for (const int cols : {1, 5, 32, 203})
        for (const double size : reference::scales(1e-3, 30)) {
          CAPTURE(temperature);
          CAPTURE(cols);
          CAPTURE(size);
          const Problem p(9, cols, size, temperature);
          const Result r = run(p, 2);
          const double heat = static_cast<double>(temperature);
          CHECK(most_apart(expected_loss(p), r.loss) < 1e-6 * heat * (heat + size));
          CHECK(most_apart(expected_gradient(p, kBoth), r.gradient) < 2e-7 * (1 + heat) * (1 + size / heat));
          const MixedScale soft{0, 1};
          CHECK(most_apart(expected_gradient(p, soft), run(p, 1, soft).gradient) < 2e-7 * (heat + size));
        }
  });
}

TEST_CASE("soft_cross_entropy: a teacher without weight changes no bit") {
  const Problem p(9, 77, 3, 2);
  std::vector<float> alone = reference::narrow(p.logits), loss(9), log_sum(9);
  Threads pool(1);
  const Matrix<float> logits(alone.data(), p.rows, p.cols);
  cross_entropy_forward(logits, p.target, loss, log_sum, pool);
  cross_entropy_backward(logits, p.target, log_sum, 0.25f, pool);
  CHECK(run(p, 1, {0.25f, 0}).gradient == alone);
}

TEST_CASE("soft_cross_entropy: models that agree are not apart") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    for (const double size : {1e-3, 1.0, 1e4}) {
      Problem p(9, 203, size, 1.7f);
      p.teacher = p.logits;
      const Result r = run(p, 1, {0, 1});
      for (const float loss : r.loss) CHECK(loss == 0.0f);
      for (const float d : r.gradient) CHECK(d == 0.0f);
    }
  });
}

// Of one row with the target 0; the gradient with the weights 0 and 1.
struct Row {
  float loss = 0;
  std::vector<float> gradient;

  Row(std::vector<float> logits, const std::vector<float>& teacher, float temperature) : gradient(std::move(logits)) {
    Threads pool(1);
    const int cols = static_cast<int>(gradient.size());
    const std::vector<int32_t> target{0};
    std::vector<float> hard(1), log_sum(1), student(1), of_teacher(1);
    const Matrix<float> view(gradient.data(), 1, cols);
    const SoftTargets soft{{teacher.data(), 1, cols}, target, temperature};
    const SoftSums sums{student, of_teacher};
    cross_entropy_forward(view, target, hard, log_sum, pool);
    soft_cross_entropy_forward(view, soft, {&loss, 1}, sums, pool);
    mixed_cross_entropy_backward(view, soft, log_sum, sums, {0, 1}, pool);
  }
};

TEST_CASE("soft_cross_entropy: large and forbidden logits do not overflow") {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const Row forbidden({3e38f, -3e38f, -infinity}, {3e38f, -3e38f, -infinity}, 1);
  CHECK(forbidden.loss == 0.0f);
  CHECK(forbidden.gradient == std::vector<float>{0, 0, 0});
  const Row ruled_out({0, 0, 1e4f}, {0, 0, -infinity}, 2);  // the student is sure of what the teacher rules out
  CHECK(ruled_out.loss == doctest::Approx(2 * 1e4 - 4 * std::log(2.0)));
  CHECK(ruled_out.gradient[2] == doctest::Approx(2));
  CHECK(Row({0, -infinity}, {0, 0}, 1).loss == infinity);
  for (const float damaged : {nan, -nan}) {
    CHECK(std::isnan(Row({0, damaged}, {0, 0}, 1).loss));
    CHECK(std::isnan(Row({0, 0}, {damaged, 0}, 1).loss));
  }
}

TEST_CASE("soft_cross_entropy: the same bits for any number of threads, and for a row alone") {
  const Problem p(21, 77, 3, 2);
  const Result one = run(p, 1);
  CHECK(run(p, 2) == one);
  CHECK(run(p, 3) == one);
  for (int t = 0; t < p.rows; ++t) {
    Problem alone = p;
    alone.rows = 1;
    alone.logits = p.row(p.logits, t);
    alone.teacher = p.row(p.teacher, t);
    alone.target = {p.target[static_cast<size_t>(t)]};
    const Result r = run(alone, 1);
    CHECK(r.loss[0] == one.loss[static_cast<size_t>(t)]);
    CHECK(std::equal(r.gradient.begin(), r.gradient.end(), one.gradient.begin() + t * p.cols));
  }
}

}  // namespace
}  // namespace choir::kernels
