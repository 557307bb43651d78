// A whole router on random tokens: what tests of routers share.
#pragma once

#include "moe/reference/case.h"
#include "moe/reference/selection.h"

namespace choir::moe::reference {

// A case with the tensors and the first state of a router; route() fills c.routing.
struct Routed : Case {
  Router router;

  Routed(const std::string& expression, int n, int d, int e, uint64_t from = 1)
      : Case(n, d, e, from), router(parse_router(expression)) {
    fill_tensors(router);
    state.resize(size_t(router.state_size(e)));
    router.initial_state(e, state);
    for (int t = 0; t < n; ++t) id.push_back(int32_t(17 * t % 41));
  }

  Routing& route(Balancing balancing = Balancing::kOff) {
    list_ = weights();
    router.route(context(list_), balancing, routing);
    return routing;
  }
  // Observes the last routing and moves the state, as a training step does.
  void update() {
    std::vector<float> sums(size_t(router.sums_size(experts)));
    list_ = weights();
    router.observe(context(list_), routing, sums);
    router.update(experts, sums, state);
  }
  int choices() const { return router.choices(experts); }
  int load(int e) const { return routing.plan.offset[size_t(e) + 1] - routing.plan.offset[size_t(e)]; }
  std::vector<double> scores() const {
    return {routing.score.data(), routing.score.data() + size_t(rows) * size_t(experts)};
  }

 private:
  std::vector<Weight> list_;
};

inline int edges(const std::vector<int32_t>& list) {
  return int(std::count_if(list.begin(), list.end(), [](int32_t e) { return e >= 0; }));
}

}  // namespace choir::moe::reference
