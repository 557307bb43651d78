// Any text is a router that reads back as itself, routes a small batch by both rules, goes backward and moves its own
// numbers, all within bounds; or an error of the call.
#include <cmath>
#include <cstdint>
#include <string>

#include "base/error.h"
#include "base/rng.h"
#include "moe/router.h"

namespace {

using namespace choir;
using tensor::Buffer;
using tensor::Matrix;
using tensor::Weight;

constexpr int kTokens = 7, kWidth = 12, kExperts = 4;

struct Numbers {
  std::vector<Buffer<float>> owned;
  base::Rng rng{1};

  Matrix<float> random(int rows, int cols) {
    owned.emplace_back(static_cast<size_t>(rows) * static_cast<size_t>(cols));
    for (float& v : owned.back().span()) v = rng.normal();
    return owned.back().matrix(rows, cols);
  }
};

void check_plan(const moe::Routing& routing, int choices) {
  const moe::Plan& plan = routing.plan;
  CHOIR_CHECK(plan.tokens == kTokens && plan.choices == choices && plan.experts() == kExperts, "plan");
  CHOIR_CHECK(plan.offset.front() == 0 && plan.offset.back() == plan.edges(), "offsets");
  for (int e = 0; e < kExperts; ++e) {
    CHOIR_CHECK(routing.capacity == 0 || plan.offset[e + 1] - plan.offset[e] <= routing.capacity, "capacity");
    for (int i = plan.offset[e]; i < plan.offset[e + 1]; ++i) {
      CHOIR_CHECK(plan.token[i] >= 0 && plan.token[i] < kTokens && plan.slot[i] >= 0 && plan.slot[i] < choices, "edge");
      CHOIR_CHECK(i == plan.offset[e] || plan.token[i - 1] < plan.token[i], "order");
    }
  }
}

void route(const moe::Router& router) {
  Numbers numbers;
  base::Threads threads(1);
  std::vector<int32_t> ids, nodes;
  for (int t = 0; t < kTokens; ++t) {
    ids.push_back(t);
    nodes.push_back(t % 2);
  }
  std::vector<Weight> tensors;
  std::vector<Matrix<float>> gradients;
  for (const moe::GateTensor& t : router.tensors(kExperts, kWidth)) {
    tensors.emplace_back(Matrix<const float>(numbers.random(t.rows, t.cols)));
    gradients.push_back(numbers.random(t.rows, t.cols));
  }
  std::vector<float> state(static_cast<size_t>(router.state_size(kExperts)));
  router.initial_state(kExperts, state);
  moe::Tokens tokens;
  tokens.x = numbers.random(kTokens, kWidth);
  tokens.previous = numbers.random(kTokens, kExperts);
  tokens.id = ids;
  tokens.node = nodes;
  tokens.nodes = 2;
  const Matrix<float> dx = numbers.random(kTokens, kWidth), previous = numbers.random(kTokens, kExperts);
  for (const moe::Rule rule : {moe::Rule::kTraining, moe::Rule::kTraining, moe::Rule::kDecode}) {
    const moe::Context context{.tokens = tokens,
                               .experts = kExperts,
                               .tensors = tensors,
                               .state = state,
                               .shares = {},
                               .rule = rule,
                               .seed = 1,
                               .threads = threads};
    moe::Routing routing;
    router.route(context, moe::Balancing::kOn, routing);
    check_plan(routing, router.choices(kExperts));
    const std::vector<float> dweight(routing.plan.token.size(), 1.0f);
    router.backward({dweight, 1, dx, gradients, previous, {}}, context, routing);
    std::vector<float> sums(static_cast<size_t>(router.sums_size(kExperts)));
    router.observe(context, routing, sums);
    router.update(kExperts, sums, state);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const moe::Router router = moe::parse_router({reinterpret_cast<const char*>(data), size});
    const std::string written = router.expression();
    CHOIR_CHECK(moe::parse_router(written).expression() == written, written);
    moe::check_router(router, kExperts, kWidth, "input");
    route(router);
  } catch (const base::Error& error) {
    CHOIR_CHECK(error.fault == base::Fault::kUsage || error.fault == base::Fault::kInput, error.what());
    CHOIR_CHECK(!error.hint.empty(), error.what());
  }
  return 0;
}
