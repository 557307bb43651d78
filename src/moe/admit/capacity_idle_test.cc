// Capacity where some experts have no weights (arXiv 2410.07348).
#include "moe/admit/fifo.h"
#include "moe/admit/top_capacity.h"
#include "moe/reference/selection.h"
#include "moe/reference/words.h"

namespace choir::moe {
namespace {

constexpr int kTokens = 200, kExperts = 7, kIdle = 3;

TEST_CASE("factor with eta: texts and ranges") {
  reference::check_text<Fifo>(
      {"fifo(factor(1.1, eta=0.75))", "fifo(factor(1.1))", "fifo(factor(2, eta=0.5, tile=16), order=slot)"},
      {"fifo(factor(1,eta=0))", "fifo(etr_sum(eta=0.5))"});
}

// gamma tau N K / (tau E + Z) with weights, gamma N K / (tau E + Z) without.
int64_t by_formula(double gamma, double tau, bool idle) {
  const double shares = tau * (kExperts - kIdle) + kIdle;
  return static_cast<int64_t>(std::ceil(gamma * (idle ? 1 : tau) * kTokens * 2 / shares - 1e-9));
}

TEST_CASE("fifo and top_capacity: experts without weights have their own capacity") {
  for (const auto& [gamma, tau] : {std::pair{1.1, 0.75}, {0.5, 0.25}, {0.66, 1.0}, {0.7, 2.0}}) {
    CAPTURE(gamma);
    CAPTURE(tau);
    const std::string factor =
        "factor(" + written(static_cast<float>(gamma)) + ",eta=" + written(static_cast<float>(tau)) + ")";
    std::vector<int64_t> capacity;
    for (int e = 0; e < kExperts; ++e) capacity.push_back(by_formula(gamma, tau, e >= kExperts - kIdle));
    const auto proposed = reference::random_choices(kTokens, 2, kExperts, 0, 3);
    const auto z = reference::random(kTokens * kExperts, 1, 4);
    reference::Case c(kTokens, 1, kExperts);
    c.idle = kIdle;
    c.set_scores(reference::narrow(z));
    c.set_choices(proposed, proposed);
    reference::read_word<Fifo>("fifo(" + factor + ")").admit(c.context(), c.routing);
    CHECK(c.routing.chosen == reference::fifo(proposed, 2, capacity, reference::Order::kTokenMajor));
    c.set_choices(proposed, proposed);
    reference::read_word<TopCapacity>("top_capacity(" + factor + ",key=score)").admit(c.context(), c.routing);
    const auto kept = reference::top_capacity(proposed, z, 2, capacity);
    CHECK(c.routing.chosen == kept);
    c.set_choices(proposed, proposed);
    reference::read_word<TopCapacity>("top_capacity(" + factor + ",key=score,drop=reroute)")
        .admit(c.context(), c.routing);
    CHECK(c.routing.chosen == reference::reroute(kept, proposed, z, 2, capacity));
  }
}

}  // namespace
}  // namespace choir::moe
