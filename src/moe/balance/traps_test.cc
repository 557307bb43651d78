// Faults that balance losses had elsewhere, one test for each; the numbers are those of the public reports.
#include <doctest/doctest.h>

#include "moe/parse.h"
#include "moe/reference/losses.h"
#include "moe/reference/route_case.h"
#include "moe/reference/score_case.h"

namespace choir::moe {
namespace {

using doctest::Approx;
using reference::Routed;

// Gradients of the balance loss alone, with nothing from the experts.
struct Gradient {
  std::vector<float> dx, dprevious;
  std::vector<std::vector<float>> dtensor;

  double largest(const std::vector<float>& v) const {
    double most = 0;
    for (const float d : v) most = std::max(most, std::abs(double(d)));
    return most;
  }
};

Gradient balance_gradient(Routed& r) {
  Gradient g;
  g.dx.resize(r.x.size());
  g.dprevious.resize(size_t(r.rows) * size_t(r.experts));
  for (const auto& t : r.tensor) g.dtensor.emplace_back(t.size());
  std::vector<Matrix<float>> views;
  for (size_t i = 0; i < r.tensor.size(); ++i) views.push_back(reference::matrix(g.dtensor[i], r.shape[i].second));
  const std::vector<float> dweight(r.routing.plan.token.size());
  const auto list = r.weights();
  r.router.backward(
      {dweight, 1, reference::matrix(g.dx, r.width), views, reference::matrix(g.dprevious, r.experts), {}},
      r.context(list), r.routing);
  return g;
}

// A batch whose load is far from even.
Routed& lean(Routed& r) {
  for (int t = 0; t < r.rows; ++t)
    for (int j = 0; j < 3; ++j) r.x[size_t(t * r.width + j)] += 2;
  r.nodes = 2;
  for (int t = 0; t < r.rows; ++t) r.node.push_back(t % 2);
  r.route(Balancing::kOn);
  return r;
}

TEST_CASE("trap: a loss that is a constant (transformers 28093)") {
  for (const std::string loss :
       {"load(1)", "load(1, scope=sequence)", "load(1, of=sigmoid)", "z_loss(1)", "locality(1)"}) {
    CAPTURE(loss);
    Routed a("linear > top_k(2) > all > chosen + " + loss, 40, 12, 4, 1),
        b("linear > top_k(2) > all > chosen + " + loss, 40, 12, 4, 1);
    b.fill_tensors(b.router, 999);  // another router on the same tokens
    CHECK(std::abs(lean(a).routing.balance_loss - lean(b).routing.balance_loss) > 1e-3);
  }
}

TEST_CASE("trap: no gradient reaches the router, or the tokens where the router has no weights (Automodel 1408)") {
  for (const Alias& alias : aliases()) {
    const std::string text = parse_router(alias.name).expression();
    if (text.find("load") == std::string::npos) continue;
    for (const Rule rule : {Rule::kTraining, Rule::kDecode}) {
      CAPTURE(text);
      Routed r(alias.name, 60, 32, 16);  // more than any alias chooses
      r.rule = rule;
      if (r.router.residual()) r.previous = reference::narrow(reference::random(60 * 16, 1, 4));
      lean(r);
      CHECK(r.routing.balance_loss > 0);
      const Gradient g = balance_gradient(r);
      CHECK(g.largest(g.dx) > 1e-7);
      const auto tensors = r.router.tensors(r.experts, r.width);
      for (size_t i = 0; i < tensors.size(); ++i)  // the gate of the noise has work in training alone
        if (rule == Rule::kTraining || tensors[i].name != "gate_noise.weight") CHECK(g.largest(g.dtensor[i]) > 1e-7);
    }
  }
}

TEST_CASE("trap: silently off unless something else is asked for (transformers 44243, 44586; MoExtend; PESC)") {
  for (const std::string weigh : {"chosen", "softmax", "softmax(renorm)", "sigmoid", "sigmoid_norm(2.5)", "identity"})
    for (const std::string admit : {"all", "fifo(factor(1))", "top_capacity(factor(1))"}) {
      CAPTURE(weigh);
      CAPTURE(admit);
      Routed with("linear > top_k(2) > " + admit + " > " + weigh + " + load(1)", 60, 12, 4),
          masked("linear > top_k(2) > " + admit + " > " + weigh + " + load(1)", 60, 12, 4);
      lean(with);
      masked.padding.assign(60, 0);  // a mask that hides nothing
      lean(masked);
      CHECK(with.routing.balance_loss > 1);
      CHECK(with.routing.balance_loss == masked.routing.balance_loss);
      CHECK(balance_gradient(with).dtensor[0] == balance_gradient(masked).dtensor[0]);
    }
}

TEST_CASE("trap: softmax applied twice (transformers 45120)") {
  Routed r("linear > top_k(2) > all > chosen + load(1)", 50, 12, 4);
  lean(r);
  std::vector<double> mean(4);
  double z_loss = 0;
  for (size_t t = 0; t < 50; ++t) {
    const auto row = reference::row_of(r.scores(), t, 4);
    const auto p = reference::softmax(row);
    z_loss += reference::logsumexp(row) * reference::logsumexp(row) / 50;
    for (size_t e = 0; e < 4; ++e) {
      CHECK(double(r.routing.probability[t * 4 + e]) == Approx(p[e]).epsilon(1e-5));
      mean[e] += p[e] / 50;
    }
  }
  const auto f = reference::shares(r.routing.proposed, 4);
  double want = 0;
  for (size_t e = 0; e < 4; ++e) want += 4 * f[e] * mean[e];
  CHECK(r.routing.balance_loss == Approx(want).epsilon(1e-5));
  Routed z("linear > top_k(2) > all > chosen + z_loss(1)", 50, 12, 4);
  CHECK(lean(z).routing.balance_loss == Approx(z_loss).epsilon(1e-5));
}

TEST_CASE("trap: a sigmoid router lowers the loss by making all scores very negative (Megatron-LM 1545)") {
  for (const float shift : {0.0f, -10.0f, -40.0f, -100.0f}) {
    Routed r("linear(sigmoid) > top_k(2) > all > sigmoid_norm + load(1, of=sigmoid)", 40, 12, 4);
    for (int t = 0; t < 40; ++t) r.x[size_t(t * 12)] = 1;
    for (size_t e = 0; e < 4; ++e) r.tensor[0][e * 12] = shift;
    r.route(Balancing::kOn);
    const auto f = reference::shares(r.routing.proposed, 4);
    double want = 0;
    for (size_t t = 0; t < 40; ++t) {
      std::vector<double> s;
      double sum = 0;
      for (const double z : reference::row_of(r.scores(), t, 4)) sum += s.emplace_back(reference::sigmoid(z));
      for (size_t e = 0; e < 4; ++e) want += 4 * f[e] * s[e] / sum / 40;
    }
    CAPTURE(shift);
    CHECK(r.routing.balance_loss == Approx(want).epsilon(1e-5));
    CHECK(r.routing.balance_loss > 0.9);
  }
}

TEST_CASE("trap: a wrong denominator when a step is cut into parts (Megatron-LM 7213)") {
  const std::string text = "linear > top_k(2) > all > chosen + load(1)";
  Routed whole(text, 48, 12, 4);
  lean(whole);
  std::vector<float> shares;
  for (const double f : reference::shares(whole.routing.proposed, 4)) shares.push_back(float(f));
  double loss = 0;
  std::vector<float> gate(whole.tensor[0].size());
  for (int part = 0; part < 3; ++part) {
    Routed r(text, 16, 12, 4);
    std::copy_n(whole.x.begin() + part * 16 * 12, 16 * 12, r.x.begin());
    r.shares = shares;
    loss += r.route(Balancing::kOn).balance_loss / 3;
    const Gradient g = balance_gradient(r);
    for (size_t i = 0; i < gate.size(); ++i) gate[i] += g.dtensor[0][i] / 3;
  }
  CHECK(loss == Approx(whole.routing.balance_loss).epsilon(1e-5));
  CHECK(reference::error(reference::widen(balance_gradient(whole).dtensor[0]), gate) < 1e-4);
}

TEST_CASE("trap: layers of different sizes share the bias of one (Megatron-LM 5573)") {
  const std::string text = "linear(sigmoid) > top_k(1) > all > sigmoid + bias(0.5)";
  for (const int experts : {3, 8}) {
    Routed r(text, 30, 12, experts);
    CHECK(r.state.size() == size_t(experts));
    r.route();
    r.update();
    for (int e = 0; e < experts; ++e) {
      const double mean = 30.0 / experts;
      CHECK(r.state[size_t(e)] == (r.load(e) < mean ? 0.5f : r.load(e) > mean ? -0.5f : 0.0f));
    }
  }
}

TEST_CASE("trap: collapse reads as balance when layers are joined before the product (torchtitan 1246)") {
  // Each of two layers sends all to its own half of the experts: joined, f is uniform; each alone is at its worst.
  for (const int layer : {0, 1}) {
    Routed r("linear > top_k(2) > all > chosen + load(1)", 40, 4, 4);
    for (int t = 0; t < 40; ++t) r.x[size_t(4 * t)] = 1;
    std::fill(r.tensor[0].begin(), r.tensor[0].end(), 0.0f);
    for (int e = 0; e < 4; ++e) r.tensor[0][size_t(4 * e)] = e / 2 == layer ? 40 : -40;
    CHECK(r.route(Balancing::kOn).balance_loss == Approx(2).epsilon(1e-6));  // E / K
  }
}

TEST_CASE("trap: the shares count the least likely experts (MoExtend)") {
  Routed r("linear > top_k(2) > all > chosen + load(1)", 50, 12, 6);
  r.route(Balancing::kOn);
  CHECK(r.routing.proposed == reference::top_k(r.scores(), 6, 2));
  CHECK(r.routing.balance_loss > 1);  // what is likely is also chosen; counted from the wrong end it would be below 1
}

TEST_CASE("trap: the same loss on every path (ms-swift 5171)") {
  const auto loss = [](const std::string& admit, const std::string& weigh, Rule rule) {
    Routed r("linear > top_k(2) > " + admit + " > " + weigh + " + load(1) + z_loss(0.1)", 60, 12, 4);
    r.rule = rule;
    return lean(r).routing.balance_loss;
  };
  const double want = loss("all", "chosen", Rule::kTraining);
  for (const std::string admit :
       {"all", "fifo(factor(0.5))", "top_capacity(factor(0.5))", "top_capacity(etr_sum)", "skip(0.5)"})
    for (const std::string weigh : {"chosen", "softmax", "sigmoid_norm"})
      for (const Rule rule : {Rule::kTraining, Rule::kDecode}) CHECK(loss(admit, weigh, rule) == want);
}

}  // namespace
}  // namespace choir::moe
