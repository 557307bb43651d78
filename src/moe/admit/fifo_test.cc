#include "moe/admit/fifo.h"

#include <doctest/doctest.h>

#include "moe/reference/capacity.h"
#include "moe/reference/route_case.h"

namespace choir::moe {
namespace {

using reference::Order;
using reference::Routed;

std::vector<int32_t> left_by(const std::string& arguments, const std::vector<int32_t>& proposed, int experts, int k,
                             Rule rule = Rule::kTraining) {
  std::string text = "fifo(" + arguments + ")";
  std::erase(text, ' ');
  const Phrase phrase = parse_phrase(text);
  Arguments read(phrase);
  const Fifo word = Fifo::read(read);
  reference::Case c(static_cast<int>(proposed.size()) / k, 1, experts);
  c.rule = rule;
  c.set_choices(proposed, proposed);
  word.admit(c.context(), c.routing);
  CHECK(c.routing.proposed == proposed);
  return c.routing.chosen;
}

TEST_CASE("fifo: first come, first served, by token or by slot; a case by hand") {
  // Three tokens of two choices for two experts: factor 0.667 is C = 3, 0.333 is 1.
  const std::vector<int32_t> proposed{0, 1, 1, 0, 0, 1};
  CHECK(left_by("factor(1)", proposed, 2, 2) == proposed);
  CHECK(left_by("factor(0.667)", proposed, 2, 2) == proposed);
  CHECK(left_by("factor(0.333)", proposed, 2, 2) == std::vector<int32_t>{0, 1, -1, -1, -1, -1});
  CHECK(left_by("factor(0.333), order=slot", proposed, 2, 2) == std::vector<int32_t>{0, -1, 1, -1, -1, -1});
  CHECK(left_by("factor(0.5), order=slot", proposed, 2, 2) == std::vector<int32_t>{0, 1, 1, -1, 0, -1});
}

TEST_CASE("fifo: agrees with the plain loop, in both orders") {
  uint64_t seed = 1;
  for (const int experts : {2, 5, 8})
    for (const int k : {1, 2})
      for (const int permille : {200, 660, 1000, 1250})
        for (const bool slot : {false, true})
          for (const double missing : {0.0, 0.3}) {
            const int n = 47;
            const auto proposed = reference::random_choices(n, k, experts, missing, seed++);
            const std::vector<int64_t> c(size_t(experts), reference::factor_capacity(permille, {n, experts, k}));
            CHECK(left_by("factor(" + std::to_string(permille / 1000.0) + ")" + (slot ? ", order=slot" : ""), proposed,
                          experts,
                          k) == reference::fifo(proposed, size_t(k), c, slot ? Order::kSlotMajor : Order::kTokenMajor));
          }
}

TEST_CASE("fifo: by token, later tokens never reach back; by slot they do") {
  int moved = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    auto one = reference::random_choices(30, 2, 4, 0, seed), other = one;
    const auto tail = reference::random_choices(10, 2, 4, 0, seed + 100);
    std::copy(tail.begin(), tail.end(), other.begin() + 40);
    const auto a = left_by("factor(0.5)", one, 4, 2), b = left_by("factor(0.5)", other, 4, 2);
    CHECK(std::equal(a.begin(), a.begin() + 40, b.begin()));
    const auto c = left_by("factor(0.5), order=slot", one, 4, 2), d = left_by("factor(0.5), order=slot", other, 4, 2);
    moved += !std::equal(c.begin(), c.begin() + 40, d.begin());
  }
  CHECK(moved > 10);
}

TEST_CASE("fifo: away from training nothing is dropped") {
  const auto proposed = reference::random_choices(30, 2, 4, 0, 1);
  CHECK(left_by("factor(0.1)", proposed, 4, 2, Rule::kDecode) == proposed);
}

TEST_CASE("fifo: with a tracked capacity it learns from cosines, also of a gate that averages") {
  Routed r("locmoe", 256, 64, 8);
  r.route();
  CHECK(r.routing.capacity == 36);  // 1.1 * 32, before the first step
  r.update();
  const auto x = std::vector<double>(r.x.begin(), r.x.end());
  const auto delta = reference::delta_statistic(
      [&] {
        std::vector<double> all;
        for (size_t t = 0; t < 256; ++t) {
          double square = 0;
          for (size_t j = 0; j < 64; ++j) square += x[t * 64 + j] * x[t * 64 + j];
          for (size_t e = 0; e < 8; ++e) {
            double sum = 0;
            for (size_t j = 8 * e; j < 8 * e + 8; ++j) sum += x[t * 64 + j];
            all.push_back(sum / std::sqrt(8 * square));
          }
        }
        return all;
      }(),
      8);
  const int64_t want = reference::bound_capacity(delta, 64, {250, 1100, 1}, {256, 8, 1});
  r.route();
  CHECK(r.routing.capacity == want);
  const float first = r.state[0];
  r.x = reference::narrow(reference::random(256 * 64, 5, 9));
  r.route();
  r.update();
  CHECK(r.state[0] == first);  // the first batch alone counts
}

}  // namespace
}  // namespace choir::moe
