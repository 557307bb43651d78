// What every router promises, on random tokens, and how routers are related.
#include <doctest/doctest.h>

#include <cmath>
#include <numeric>
#include <set>

#include "moe/parse.h"
#include "moe/reference/capacity.h"
#include "moe/reference/losses.h"
#include "moe/reference/route_case.h"
#include "moe/reference/scores.h"

namespace choir::moe {
namespace {

using reference::edges;
using reference::Routed;

std::vector<std::string> expressions() {
  std::vector<std::string> all;
  for (const Alias& alias : aliases()) all.emplace_back(alias.name);
  for (const char* more :
       {"linear > top_k(2) > top_capacity(factor(0.5), drop=reroute) > sigmoid_norm(2.5) + bias(0.01)",
        "dense_cosine > top_k(3) > fifo(factor(0.66), order=slot) > softmax(renorm) + load(0.1, scope=sequence)",
        "grap_cosine(learn, center=0.5) > top_k(2) > top_capacity(etr_bound, floor=0.1) > chosen + z_loss(0.1)",
        "linear > top_k(2) > skip(0.5) > chosen", "linear > top_k(4) > skip(tail=0.3) > chosen(over=6)",
        "linear > groups(1, 1, 4) > skip(ser=0.4, least=2) > softmax(renorm)",
        "linear(sigmoid) > top_k(4) > skip(tail=0.5) > sigmoid_norm(2.5) + bias(0.01)",
        "linear > all > top_capacity(theory, key=score, decode=threshold) > sigmoid"})
    all.emplace_back(more);
  return all;
}

// Proposals and choices of one token: each expert at most once, all in range.
void check_lists(const Routed& r) {
  const int k = r.choices();
  for (const auto* list : {&r.routing.proposed, &r.routing.chosen}) {
    REQUIRE(list->size() == size_t(r.rows * k));
    for (int t = 0; t < r.rows; ++t) {
      std::set<int32_t> seen;
      for (int s = 0; s < k; ++s) {
        const int32_t e = (*list)[size_t(t * k + s)];
        CHECK(e < r.experts);
        if (e >= 0) CHECK(seen.insert(e).second);
        if (!r.padding.empty() && r.padding[size_t(t)]) CHECK(e < 0);
      }
    }
  }
}

void check_plan(const Routed& r) {
  const Plan& plan = r.routing.plan;
  REQUIRE(plan.offset.size() == size_t(r.experts) + 1);
  CHECK(plan.offset.front() == 0);
  CHECK(plan.offset.back() == plan.edges());
  CHECK(plan.edges() == edges(r.routing.chosen));
  CHECK(plan.weight.size() == plan.token.size());
  for (int e = 0; e < r.experts; ++e) {
    CHECK(r.load(e) >= 0);
    if (r.routing.capacity > 0) CHECK(r.load(e) <= r.routing.capacity);
    for (int i = plan.offset[e]; i < plan.offset[e + 1]; ++i) {
      CHECK((plan.token[i] >= 0 && plan.token[i] < r.rows && plan.slot[i] >= 0 && plan.slot[i] < r.choices()));
      CHECK(r.routing.chosen[plan.token[i] * r.choices() + plan.slot[i]] == e);
      if (i > plan.offset[e]) CHECK(plan.token[i - 1] < plan.token[i]);
      CHECK(std::isfinite(plan.weight[i]));
    }
  }
}

TEST_CASE("every router: the plan is sound, in training and away from it, with and without padding") {
  for (const std::string& text : expressions())
    for (const int n : {0, 1, 2, 37, 200})
      for (const int experts : {8, 11})
        for (const bool padded : {false, true}) {
          CAPTURE(text);
          CAPTURE(n);
          Routed r(text, n, 24, experts, uint64_t(n + 1));
          r.nodes = 2;
          for (int t = 0; t < n; ++t) r.node.push_back(t % 2);
          if (padded)
            for (int t = 0; t < n; ++t) r.padding.push_back(t % 3 == 1);
          for (int step = 0; step < 3; ++step) {
            r.rule = step < 2 ? Rule::kTraining : Rule::kDecode;
            r.route(Balancing::kOn);
            check_lists(r);
            check_plan(r);
            CHECK(std::isfinite(r.routing.balance_loss));
            if (r.rule == Rule::kDecode) CHECK(r.routing.capacity == 0);
            r.update();
            for (const float v : r.state) CHECK(std::isfinite(v));
          }
        }
}

TEST_CASE("every router: the same bits for any number of threads") {
  for (const std::string& text : expressions()) {
    CAPTURE(text);
    Routed one(text, 300, 24, 8), three(text, 300, 24, 8);
    base::Threads alone(1), few(3);
    std::vector<float> numbers[2];  // sums and gradients
    const auto route = [](Routed& r, base::Threads& threads, std::vector<float>& out) {
      const auto list = r.weights();
      Context context = r.context(list);
      Context own{.tokens = context.tokens,
                  .experts = context.experts,
                  .idle = 0,
                  .tensors = list,
                  .state = context.state,
                  .shares = {},
                  .rule = context.rule,
                  .seed = context.seed,
                  .threads = threads};
      r.router.route(own, Balancing::kOn, r.routing);
      out.resize(size_t(r.router.sums_size(r.experts)));
      r.router.observe(own, r.routing, out);
      std::vector<float> dx(r.x.size()), dweight;
      for (int i = 0; i < r.routing.plan.edges(); ++i) dweight.push_back(std::sin(float(i)));
      std::vector<std::vector<float>> dw;
      for (const auto& t : r.tensor) dw.emplace_back(t.size());
      std::vector<Matrix<float>> views;
      for (size_t i = 0; i < dw.size(); ++i) views.push_back({dw[i].data(), r.shape[i].first, r.shape[i].second});
      r.router.backward({dweight, 1, reference::matrix(dx, r.width), views, {}, {}}, own, r.routing);
      out.insert(out.end(), dx.begin(), dx.end());
      for (const auto& d : dw) out.insert(out.end(), d.begin(), d.end());
    };
    route(one, alone, numbers[0]);
    route(three, few, numbers[1]);
    CHECK(numbers[0] == numbers[1]);
    CHECK(one.routing.chosen == three.routing.chosen);
    CHECK(one.routing.plan.weight == three.routing.plan.weight);
    CHECK(one.routing.balance_loss == three.routing.balance_loss);
  }
}

TEST_CASE("every router: away from training a token's edges and weights do not depend on the other tokens") {
  for (const std::string& text : expressions()) {
    CAPTURE(text);
    Routed r(text, 40, 24, 8);
    r.route();
    r.update();
    r.rule = Rule::kDecode;
    r.route();
    for (const int size : {1, 2, 4, 8})
      for (int first = 0; first + size <= 40; first += 8) {
        Routed part(text, size, 24, 8);
        part.rule = Rule::kDecode;
        part.state = r.state;
        std::copy_n(r.x.begin() + first * 24, size * 24, part.x.begin());
        std::copy_n(r.id.begin() + first, size, part.id.begin());
        part.route();
        const int k = r.choices();
        for (int i = 0; i < size * k; ++i) {
          const int32_t here = part.routing.plan.edge[i], there = r.routing.plan.edge[first * k + i];
          CHECK(part.routing.chosen[i] == r.routing.chosen[first * k + i]);
          if (here >= 0 && there >= 0) CHECK(part.routing.plan.weight[here] == r.routing.plan.weight[there]);
        }
      }
  }
}

void check_same(Routed& a, Routed& b) {
  a.route(Balancing::kOn);
  b.route(Balancing::kOn);
  CHECK(a.routing.chosen == b.routing.chosen);
  CHECK(a.routing.plan.token == b.routing.plan.token);
  CHECK(a.routing.plan.weight == b.routing.plan.weight);
  CHECK(a.routing.balance_loss == b.routing.balance_loss);
}

TEST_CASE("relations: without a limit, admission by affinity and by order are dropless routing, bit for bit") {
  const std::string front = "grap_cosine > top_k(2) > ", back = " > softmax + load(0.01)";
  Routed all(front + "all" + back, 120, 24, 8);
  for (const std::string admit : {"top_capacity(factor(1000))", "fifo(factor(1000))", "fifo(factor(1000), order=slot)",
                                  "top_capacity(factor(1000), drop=reroute)", "top_capacity(factor(1000), bottom)"}) {
    Routed other(front + admit + back, 120, 24, 8);
    check_same(other, all);
  }
}

TEST_CASE("relations: when every token proposes every expert, the experts alone choose") {
  Routed choice("grap_cosine > all > top_capacity(factor(0.5)) > softmax", 64, 24, 8),
      both("grap_cosine > top_k(8) > top_capacity(factor(0.5)) > softmax", 64, 24, 8);
  choice.route();
  both.route();
  CHECK(choice.routing.capacity == 32);
  CHECK(choice.routing.plan.offset == both.routing.plan.offset);
  CHECK(choice.routing.plan.token == both.routing.plan.token);
  CHECK(choice.routing.plan.weight == both.routing.plan.weight);
  CHECK(choice.routing.chosen == reference::expert_choice(choice.scores(), 8, 32));
}

TEST_CASE("relations: expert choice takes twice its share of the tokens for each expert, and no token all experts") {
  Routed r("expert_choice", 64, 24, 8);
  r.route();
  CHECK(r.routing.capacity == 16);
  for (int e = 0; e < 8; ++e) CHECK(r.load(e) == 16);
  r.update();
  r.rule = Rule::kDecode;
  r.route();
  CHECK(std::abs(r.routing.plan.edges() - 128) < 20);
}

TEST_CASE("relations: order and affinity keep equally many edges, affinity the largest sum") {
  for (uint64_t seed = 1; seed <= 10; ++seed)
    for (const std::string factor : {"0.5", "0.66", "1", "1.1"})
      for (const std::string k : {"1", "2"}) {
        const std::string front = "grap_cosine > top_k(" + k + ") > ", back = "(factor(" + factor + ")) > softmax";
        Routed first(front + "fifo" + back, 100, 24, 8, seed), best(front + "top_capacity" + back, 100, 24, 8, seed);
        first.route();
        best.route();
        CHECK(first.routing.plan.offset == best.routing.plan.offset);
        const auto sum = [](const Routed& r) {
          double total = 0;
          for (size_t i = 0; i < r.routing.chosen.size(); ++i)
            if (r.routing.chosen[i] >= 0)
              total += r.scores()[i / size_t(r.choices()) * 8 + size_t(r.routing.chosen[i])];
          return total;
        };
        CHECK(sum(best) >= sum(first));
      }
}

// The policy "probs" of a published capacity drop: after top-k each expert keeps its C most probable tokens.
TEST_CASE("relations: affinity by probability is the published drop by probability") {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    const int n = 90, experts = 6, c = (660 * n + 1000 * experts - 1) / (1000 * experts);
    Routed r("linear > top_k(1) > top_capacity(factor(0.66), key=prob) > softmax", n, 10, experts, seed);
    r.route();
    for (int e = 0; e < experts; ++e) {
      std::vector<std::pair<float, int>> mine;  // (-p, token): the most probable first
      for (int t = 0; t < n; ++t) {
        const float* p = r.routing.probability.data() + t * experts;
        if (std::max_element(p, p + experts) == p + e) mine.emplace_back(-p[e], t);
      }
      std::sort(mine.begin(), mine.end());
      std::set<int> kept;
      for (int i = 0; i < std::min(c, int(mine.size())); ++i) kept.insert(mine[size_t(i)].second);
      std::set<int> got;
      for (int i = r.routing.plan.offset[e]; i < r.routing.plan.offset[e + 1]; ++i) {
        got.insert(r.routing.plan.token[i]);
        CHECK(r.routing.plan.weight[i] == r.routing.probability[size_t(r.routing.plan.token[i] * experts + e)]);
      }
      CHECK(got == kept);
    }
  }
}

TEST_CASE("relations: permuting the tokens permutes who is kept by affinity, and leaves the capacity") {
  Routed a("etr", 128, 24, 8), b("etr", 128, 24, 8);
  const auto to = [](size_t t) { return (t * 37) % 128; };
  for (size_t t = 0; t < 128; ++t)
    std::copy_n(a.x.begin() + ptrdiff_t(t * 24), 24, b.x.begin() + ptrdiff_t(to(t) * 24));
  for (int step = 0; step < 2; ++step) {
    a.route();
    b.route();
    CHECK(a.routing.capacity == b.routing.capacity);
    for (size_t t = 0; t < 128; ++t) CHECK(a.routing.chosen[t] == b.routing.chosen[to(t)]);
    a.update();
    b.update();
  }
}

// w_e: a row of the gate or, where it has none, 1 on the block of e.
std::vector<double> gate_row(const Routed& r, size_t e) {
  const auto width = static_cast<size_t>(r.width);
  std::vector<double> w(width);
  const reference::Block block = reference::block(e, width, static_cast<size_t>(r.experts));
  for (size_t j = 0; j < width; ++j)
    w[j] = r.tensor.empty() ? j >= block.begin && j < block.end : static_cast<double>(r.tensor[0][e * width + j]);
  return w;
}

// The largest cosine between a token and an expert that it proposes, by plain loops.
double largest_cosine(const Routed& r) {
  const auto width = static_cast<ptrdiff_t>(r.width), choices = static_cast<ptrdiff_t>(r.choices());
  double largest = -1;
  for (ptrdiff_t t = 0; t < r.rows; ++t)
    for (ptrdiff_t s = 0; s < choices; ++s) {
      const int32_t e = r.routing.proposed[static_cast<size_t>(t * choices + s)];
      if (e < 0) continue;
      const std::vector<double> x(r.x.begin() + t * width, r.x.begin() + (t + 1) * width);
      largest =
          std::max(largest, reference::dot(reference::unit(x), reference::unit(gate_row(r, static_cast<size_t>(e)))));
    }
  return largest;
}

TEST_CASE("routers: the least capacity of remark 7 is that of the largest cosine, where there are cosines") {
  for (const std::string text :
       {"grap_cosine > top_k(1) > all > softmax", "grap_cosine(kappa=2) > all > top_capacity(factor(0.5)) > softmax",
        "dense_cosine > top_k(2) > fifo(factor(1)) > softmax", "linear > top_k(2) > top_capacity(etr_sum) > chosen",
        "linear(sigmoid) > top_k(2) > fifo(etr_bound) > sigmoid_norm", "grap > top_k(1) > fifo(locmoe) > softmax"}) {
    CAPTURE(text);
    Routed r(text, 50, 24, 6);
    r.padding.assign(50, 0);
    r.padding[0] = 1;
    std::fill_n(r.x.begin(), 4, 100.0f);  // on its first block the padding would have the largest
    r.route(Balancing::kOn);
    REQUIRE(r.routing.log_min_capacity);
    CHECK(*r.routing.log_min_capacity == doctest::Approx(reference::log_bound(largest_cosine(r), 24, 6)).epsilon(1e-5));
    r.route(Balancing::kOff);
    CHECK(!r.routing.log_min_capacity);
  }
  for (const std::string text :
       {"linear > top_k(2) > all > chosen", "linear > top_k(2) > top_capacity(factor(1), key=prob) > softmax",
        "projected_cosine(rank=8) > top_k(2) > all > chosen", "hash > top_k(1) > all > chosen"}) {
    CAPTURE(text);
    Routed r(text, 50, 24, 6);
    r.route(Balancing::kOn);
    CHECK(!r.routing.log_min_capacity);
  }
}

}  // namespace
}  // namespace choir::moe
