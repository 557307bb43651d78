#include "moe/admit/top_capacity.h"

#include <doctest/doctest.h>

#include "moe/reference/capacity.h"
#include "moe/reference/route_case.h"
#include "moe/reference/scores.h"

namespace choir::moe {
namespace {

using reference::Lists;
using reference::Routed;
using reference::Take;
using Reals = std::vector<double>;

TopCapacity word_of(const std::string& arguments) {
  std::string text = "top_capacity(" + arguments + ")";
  std::erase(text, ' ');
  const Phrase phrase = parse_phrase(text);
  Arguments read(phrase);
  return TopCapacity::read(read);
}

// The word on scores z and proposals; the routing is as after the proposals.
Routing admitted(const TopCapacity& word, const Reals& z, const Lists& proposed, int experts,
                 Rule rule = Rule::kTraining, std::vector<float> state = {}) {
  reference::Case c(static_cast<int>(z.size()) / experts, 1, experts);
  c.rule = rule;
  c.state = std::move(state);
  c.set_scores(reference::narrow(z));
  c.set_choices(proposed, proposed);
  word.admit(c.context(), c.routing);
  CHECK(c.routing.proposed == proposed);
  return std::move(c.routing);
}

// Scores of which many are equal.
Reals coarse(size_t size, uint64_t seed) {
  Reals z = reference::random(size, 1.5, seed);
  for (double& v : z) v = std::round(v);
  return z;
}

TEST_CASE("top_capacity: agrees with a full sort, ties included, the highest and the lowest") {
  uint64_t seed = 1;
  for (const int experts : {1, 3, 8})
    for (const int k : {1, 2})
      for (const int permille : {200, 660, 1000})
        for (const bool bottom : {false, true})
          for (const bool ties : {false, true}) {
            if (k > experts) continue;
            const int n = 53;
            const size_t size = size_t(n * experts);
            const Reals z = ties ? coarse(size, seed++) : reference::random(size, 1, seed++);
            const Lists proposed = reference::top_k(z, size_t(experts), size_t(k));
            const std::vector<int64_t> c(size_t(experts), reference::factor_capacity(permille, {n, experts, k}));
            const auto word =
                word_of("factor(" + std::to_string(permille / 1000.0) + "), key=score" + (bottom ? ", bottom" : ""));
            const Lists want = reference::top_capacity(proposed, z, size_t(k), c, bottom ? Take::kWorst : Take::kBest);
            const Routing got = admitted(word, z, proposed, experts);
            CHECK(got.chosen == want);
            CHECK(got.capacity == c[0]);
          }
}

TEST_CASE("top_capacity: of equal affinities the lower token stays; a NaN goes first") {
  const auto word = word_of("factor(1), key=score");
  CHECK(admitted(word, {1, 0, 1, 0, 1, 0, 1, 0}, {0, 0, 0, 0}, 2).chosen == Lists{0, 0, -1, -1});
  CHECK(admitted(word, {NAN, 0, 1, 0, NAN, 0, -5, 0}, {0, 0, 0, 0}, 2).chosen == Lists{-1, 0, -1, 0});
}

TEST_CASE("top_capacity: the lowest of equal affinities too leaves the lower token") {
  const auto word = word_of("factor(1), key=score, bottom");
  CHECK(admitted(word, {1, 0, 1, 0, 1, 0, 1, 0}, {0, 0, 0, 0}, 2).chosen == Lists{0, 0, -1, -1});
  CHECK(admitted(word, {NAN, 0, 1, 0, NAN, 0, -5, 0}, {0, 0, 0, 0}, 2).chosen == Lists{-1, 0, -1, 0});
}

TEST_CASE("top_capacity: experts compare cosines, scores or probabilities") {
  const std::string ends[] = {"", ", key=score", ", key=prob"};
  for (const std::string score : {"linear", "dense_cosine(kappa=2)", "grap", "grap_cosine", "grap_cosine(learn)"})
    for (int key = 0; key < 3; ++key) {
      CAPTURE(score);
      CAPTURE(key);
      Routed r(score + " > top_k(2) > top_capacity(factor(0.66)" + ends[key] + ") > softmax", 60, 12, 4);
      for (float& v : r.x) v *= 1 + static_cast<float>(&v - r.x.data()) / 500;  // lengths that differ
      r.route();
      Reals affinity = r.scores();
      const Reals x(r.x.begin(), r.x.end());
      if (key == 2) affinity = Reals(r.routing.probability.data(), r.routing.probability.data() + 240);
      if (key == 0 && score == "linear")
        affinity = reference::dense_cosine(x, Reals(r.tensor[0].begin(), r.tensor[0].end()), 12, 1.0);
      if (key == 0 && score == "grap") {
        affinity = reference::grap_cosine(x, 12, 4, 1.0);
        for (double& a : affinity) a = std::max(a, 0.0);
      }
      const std::vector<int64_t> c(4, reference::factor_capacity(660, {60, 4, 2}));
      CHECK(r.routing.chosen == reference::top_capacity(r.routing.proposed, affinity, 2, c));
    }
}

TEST_CASE("top_capacity: proposals below the floor are dropped, in training and away from it") {
  for (const Rule rule : {Rule::kTraining, Rule::kDecode}) {
    Routed r("linear > top_k(2) > top_capacity(factor(4), floor=0.25) > softmax", 60, 12, 4);
    r.rule = rule;
    r.route();
    const Reals delta =
        reference::dense_cosine(Reals(r.x.begin(), r.x.end()), Reals(r.tensor[0].begin(), r.tensor[0].end()), 12, 1.0);
    CHECK(r.routing.chosen == reference::threshold(r.routing.proposed, delta, 2, Reals(4, 0.25)));
    CHECK(reference::edges(r.routing.chosen) < 110);
  }
}

TEST_CASE("top_capacity: a dropped proposal is sent to the next-best expert with room, as the plain loop does") {
  for (uint64_t seed = 1; seed <= 10; ++seed)
    for (const int permille : {660, 1000, 1250}) {
      const Reals z = reference::random(40 * 5, 1, seed);
      const Lists proposed = reference::top_k(z, 5, 2);
      const std::vector<int64_t> c(5, reference::factor_capacity(permille, {40, 5, 2}));
      const auto got = admitted(word_of("factor(" + std::to_string(permille / 1000.0) + "), key=score, drop=reroute"),
                                z, proposed, 5)
                           .chosen;
      CHECK(got == reference::reroute(reference::top_capacity(proposed, z, 2, c), proposed, z, 2, c));
      for (int e = 0; e < 5; ++e) CHECK(std::count(got.begin(), got.end(), e) <= c[0]);
      for (size_t t = 0; t < 40; ++t) CHECK((got[2 * t] < 0 || got[2 * t] != got[2 * t + 1]));
    }
}

TEST_CASE("top_capacity: strict dropping leaves the weights of the other edges as they were") {
  for (const std::string weigh : {"softmax", "softmax(renorm)", "sigmoid_norm"}) {
    Routed all("linear > top_k(2) > all > " + weigh, 50, 8, 4),
        some("linear > top_k(2) > top_capacity(factor(0.5)) > " + weigh, 50, 8, 4);
    all.route();
    some.route();
    for (size_t i = 0; i < 100; ++i)
      if (const int32_t at = some.routing.plan.edge[i]; at >= 0)
        CHECK(some.routing.plan.weight[size_t(at)] == all.routing.plan.weight[size_t(all.routing.plan.edge[i])]);
  }
}

TEST_CASE("top_capacity: away from training every proposal stays, or those that reach the threshold") {
  const Reals z = reference::random(30 * 4, 1, 2);
  const Lists proposed = reference::top_k(z, 4, 2);
  CHECK(admitted(word_of("factor(0.1), key=score"), z, proposed, 4, Rule::kDecode).chosen == proposed);
  const auto word = word_of("factor(0.1), key=score, decode=threshold");
  const Routing got = admitted(word, z, proposed, 4, Rule::kDecode, {0.5f, -1, 0.25f, 9, 1, 1, 1, 1});
  CHECK(got.chosen == reference::threshold(proposed, z, 2, {0.5, -1, 0.25, 9}));
  // An expert that was never seen in training has no threshold yet.
  CHECK(admitted(word, z, proposed, 4, Rule::kDecode, std::vector<float>(8)).chosen == proposed);
}

TEST_CASE("top_capacity: the threshold is the affinity of the last token kept, tracked over training") {
  Routed r("linear > all > top_capacity(factor(0.5), key=prob, decode=threshold, theta_decay=0.75) > softmax", 64, 8,
           4);
  Reals theta(4);
  for (int batch = 0; batch < 4; ++batch) {
    r.x = reference::narrow(reference::random(64 * 8, 1, uint64_t(batch + 1)));
    r.route();
    for (size_t e = 0; e < 4; ++e) {
      std::vector<float> p;
      for (size_t t = 0; t < 64; ++t) p.push_back(r.routing.probability[t * 4 + e]);
      std::sort(p.rbegin(), p.rend());
      const double last = double(p[size_t(r.routing.capacity) - 1]);
      theta[e] = batch == 0 ? last : 0.75 * theta[e] + 0.25 * last;
    }
    r.update();
    for (size_t e = 0; e < 4; ++e) CHECK(r.state[e] == doctest::Approx(theta[e]).epsilon(1e-5));
  }
  r.rule = Rule::kDecode;  // the same batch again: about as many edges as in training
  const int trained = reference::edges(r.routing.chosen);
  r.route();
  CHECK(std::abs(reference::edges(r.routing.chosen) - trained) < trained / 3);
}

TEST_CASE("top_capacity: an expert that cuts nothing lowers its threshold to what excludes nobody") {
  Routed r("linear > top_k(1) > top_capacity(factor(4), key=prob, decode=threshold) > softmax", 64, 8, 4);
  r.route();
  r.update();
  CHECK(std::vector<float>(r.state.begin(), r.state.begin() + 4) == std::vector<float>(4));
  r.rule = Rule::kDecode;
  r.route();
  CHECK(r.routing.chosen == r.routing.proposed);
}

TEST_CASE("top_capacity: what is sent on goes by what proposals compare, above the floor, not to a NaN") {
  const auto word = word_of("factor(1), key=score, drop=reroute");
  // Both tokens want expert 0 of 3, which takes one.
  CHECK(admitted(word, {9, NAN, 1, 8, NAN, 2}, {0, 0}, 3).chosen == Lists{0, 2});
  CHECK(admitted(word, {9, 1, 0, 8, NAN, -HUGE_VAL}, {0, 0}, 3).chosen == Lists{0, -1});
  reference::Case c(2, 1, 3);
  c.set_scores({9, 1, 0, 8, 1, 0});
  c.set_choices({0, 0}, {0, 0});
  c.routing.selection = Buffer<float>(6);
  for (int i = 0; i < 6; ++i) c.routing.selection[size_t(i)] = c.routing.score[size_t(i)] + (i % 3 == 2 ? 5 : 0);
  c.routing.selected = true;
  word.admit(c.context(), c.routing);
  CHECK(c.routing.chosen == Lists{0, 2});
  reference::Case low(2, 1, 3);
  low.set_scores({0.9f, 0.4f, 0.1f, 0.8f, 0.2f, 0.1f});
  low.set_choices({0, 0}, {0, 0});
  word_of("factor(1), drop=reroute, floor=0.3").admit(low.context(), low.routing);
  CHECK(low.routing.chosen == Lists{0, -1});
}

TEST_CASE("top_capacity: a call under the decode rule, which has no capacity, moves no number") {
  for (const std::string admit : {"top_capacity(etr_sum, decode=threshold)", "fifo(etr_bound)"}) {
    CAPTURE(admit);
    Routed r("linear > top_k(2) > " + admit + " > softmax", 50, 8, 4);
    const auto before = r.state;
    r.rule = Rule::kDecode;
    r.route();
    r.update();
    CHECK(r.state == before);
    r.rule = Rule::kTraining;
    r.route();
    r.update();
    CHECK(r.state != before);
  }
}

TEST_CASE("top_capacity: the lengths of the gate are asked for only where cosines are compared") {
  const auto read = [](const std::string& text) {
    const TopCapacity word = word_of(text);
    return std::pair(word.reads_cosine(Rule::kTraining), word.reads_cosine(Rule::kDecode));
  };
  CHECK(read("factor(1)") == std::pair(true, false));
  CHECK(read("factor(1), floor=0.1") == std::pair(true, true));
  CHECK(read("factor(1), decode=threshold") == std::pair(true, true));
  CHECK(read("factor(1), key=prob") == std::pair(false, false));
  CHECK(read("etr_sum, key=prob") == std::pair(true, false));
}

}  // namespace
}  // namespace choir::moe
