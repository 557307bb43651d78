#include "moe/balance/locality.h"

#include "moe/reference/balance_case.h"

namespace choir::moe {
namespace {

using doctest::Approx;
using reference::Batch;

constexpr int kTokens = 12, kExperts = 6;

Locality word() {
  Locality l;
  l.mu = 0.5f;
  return l;
}

// Tokens spread unevenly over the nodes, and what the reference is told.
reference::Locality place(Batch& b, int nodes) {
  reference::Locality l{kExperts, size_t(nodes), {}, {}, 0.01, 0.5, {}};
  b.nodes = nodes;
  for (int t = 0; t < b.rows; ++t) b.node.push_back(std::min(t * t / 16, nodes - 1));
  for (const int32_t a : b.node) l.node_of_token.push_back(size_t(a));
  for (int e = 0; e < kExperts; ++e) l.node_of_expert.push_back(size_t(e * nodes / kExperts));
  return l;
}

TEST_CASE(
    "locality: loss and gradient agree with the reference, nodes without experts or tokens and padding included") {
  for (const int nodes : {2, 3, 4, 9})
    for (const double scale : {0.1, 1.0, 5.0})
      for (const bool padded : {false, true}) {
        CAPTURE(nodes);
        CAPTURE(scale);
        Batch b(kTokens, kExperts, 2, scale);
        reference::Locality l = place(b, nodes);
        if (padded) b.pad(l.padded = {0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1});
        l.eps = double(word().eps);
        reference::check_balance(word(), b, 1, [&](const auto& z) { return reference::locality(z, l); });
      }
}

TEST_CASE("locality: from 0 to mu ln(E / eps), and nothing with one node") {
  for (uint64_t seed = 1; seed < 20; ++seed) {
    Batch b(kTokens, kExperts, 1, double(seed), seed);
    place(b, 2);
    const double loss = word().loss(b.context(), b.routing);
    CHECK(loss >= 0);
    CHECK(loss < 0.5 * std::log(kExperts / 0.01));
    b.nodes = 1;
    CHECK(word().loss(b.context(), b.routing) == 0);
    CHECK(reference::balance_gradient(word(), b) == std::vector<float>(b.z.size()));
  }
  Batch away(kTokens, kExperts, 1, 0);
  place(away, 2);
  for (int i = 0; i < kTokens * kExperts; ++i)
    away.z[size_t(i)] = i % kExperts == (away.node[size_t(i / kExperts)] == 0 ? 5 : 0) ? 50 : 0;
  away.refresh();
  CHECK(word().loss(away.context(), away.routing) == Approx(0.5 * std::log(kExperts / 0.01)).epsilon(1e-5));
}

TEST_CASE("locality: experts lie on nodes in blocks, and tokens at home cost next to nothing") {
  std::vector<int> nodes;
  for (int e = 0; e < 8; ++e) nodes.push_back(node_of_expert(e, 8, 4));
  CHECK(nodes == std::vector<int>{0, 0, 1, 1, 2, 2, 3, 3});
  CHECK(node_of_expert(1, 2, 5) == 2);
  Batch home(kTokens, kExperts, 1, 0);
  place(home, 2);
  for (int i = 0; i < kTokens * kExperts; ++i)
    home.z[size_t(i)] = node_of_expert(i % kExperts, kExperts, 2) == home.node[size_t(i / kExperts)] ? 50 : 0;
  home.refresh();
  CHECK(word().loss(home.context(), home.routing) < 0.5 * 0.0051);  // ln(1 / (1 - eps / 2))
}

TEST_CASE("locality: padded rows change neither loss nor gradient") {
  Batch b(kTokens, kExperts, 1, 1), longer(kTokens + 2, kExperts, 1, 1);
  place(b, 3);
  longer.z.assign(b.z.begin(), b.z.end());
  longer.z.resize(size_t(longer.rows * kExperts), 4);
  longer.proposed.assign(b.proposed.begin(), b.proposed.end());
  longer.proposed.resize(size_t(longer.rows));
  longer.nodes = 3;
  longer.node = b.node;
  longer.node.insert(longer.node.end(), {0, 2});
  std::vector<uint8_t> mask(size_t(longer.rows));
  mask[kTokens] = mask[kTokens + 1] = 1;
  longer.pad(mask);
  CHECK(word().loss(longer.context(), longer.routing) == word().loss(b.context(), b.routing));
  auto want = reference::balance_gradient(word(), b);
  want.resize(longer.z.size());
  CHECK(reference::balance_gradient(word(), longer) == want);
}

}  // namespace
}  // namespace choir::moe
