// A token never sees later ones, nor other sequences, unless its router trains: for every router, through the model, a
// session and the windows of an evaluation.
#include <doctest/doctest.h>

#include "eval/windows.h"
#include "runtime/session.h"
#include "tests/routed_model.h"

namespace choir {
namespace {

using tests::RandomModel;
using Logits = std::vector<float>;

constexpr int kVocab = 67, kLength = 40, kChanged = 23;  // the first id that is another

RandomModel made(const std::string& router) {
  RandomModel random(tests::routed_config(router, {{16, 2, 24, {}, {}}, {16, 2, 40, {}, {}}, {16, 2, 16, {}, {}}}), 5);
  tests::settle(random.model(), tests::random_batch({30, 20}, kVocab, 77), 2);
  return random;
}

std::vector<int32_t> changed(std::vector<int32_t> ids) {
  for (size_t i = kChanged; i < ids.size(); ++i) ids[i] = (ids[i] + 1 + static_cast<int32_t>(i) % 5) % kVocab;
  return ids;
}

// All logits of one sequence under a rule.
Logits logits_of(const model::Model& model, std::span<const int32_t> ids, moe::Rule rule) {
  base::Threads threads(2);
  const int rows = static_cast<int>(ids.size());
  const kernels::Sequence place{0, rows, 0, 0};
  Logits logits(ids.size() * kVocab);
  model::Scratch scratch;
  model::ForwardOptions options;
  options.routing.rule = rule;
  model::forward(model, {ids, {&place, 1}}, options, scratch, {logits.data(), rows, kVocab}, threads);
  return logits;
}

bool same_past(const Logits& a, const Logits& b) {
  return std::equal(a.begin(), a.begin() + kChanged * kVocab, b.begin());
}

TEST_CASE("later tokens do not move a bit of earlier logits away from training, whatever the router") {
  for (const std::string& router : tests::router_expressions()) {
    CAPTURE(router);
    const RandomModel random = made(router);
    const auto ids = tests::random_ids(kLength, kVocab, 6);
    const Logits before = logits_of(random.model(), ids, moe::Rule::kDecode),
                 after = logits_of(random.model(), changed(ids), moe::Rule::kDecode);
    CHECK(same_past(before, after));
    CHECK(before != after);
    for (const float v : before) REQUIRE(std::isfinite(v));
  }
}

// The control: the same test sees the leak of rules that let tokens compete.
TEST_CASE("later tokens do move earlier logits under a training rule with little room") {
  for (const std::string router : {"linear > top_k(1) > top_capacity(factor(0.5)) > softmax",
                                   "grap_cosine > top_k(2) > top_capacity(factor(0.5)) > softmax",
                                   "linear > top_k(2) > fifo(factor(0.5), order=slot) > softmax", "expert_choice",
                                   "linear > top_k(2) > top_capacity(factor(0.5), drop=reroute) > softmax"}) {
    CAPTURE(router);
    const RandomModel random = made(router);
    const auto ids = tests::random_ids(kLength, kVocab, 6);
    CHECK(!same_past(logits_of(random.model(), ids, moe::Rule::kTraining),
                     logits_of(random.model(), changed(ids), moe::Rule::kTraining)));
  }
}

TEST_CASE("a router that is causal trains without looking ahead, and by order of tokens none does") {
  for (const std::string router : {"mixtral", "olmoe", "hash", "linear > top_k(2) > fifo(factor(0.5)) > softmax"}) {
    CAPTURE(router);
    const RandomModel random = made(router);
    const auto ids = tests::random_ids(kLength, kVocab, 6);
    CHECK(same_past(logits_of(random.model(), ids, moe::Rule::kTraining),
                    logits_of(random.model(), changed(ids), moe::Rule::kTraining)));
  }
}

// The logits after each piece of a session.
std::vector<Logits> in_session(const model::Model& model, std::span<const int32_t> ids, size_t piece) {
  base::Threads threads(2);
  runtime::Session session(model, threads);
  std::vector<Logits> all;
  for (size_t first = 0; first < ids.size(); first += piece) {
    const auto logits = session.feed(ids.subspan(first, std::min(piece, ids.size() - first)));
    all.emplace_back(logits.begin(), logits.end());
  }
  return all;
}

TEST_CASE("a session gives the logits of the whole text, fed in pieces of any size") {
  for (const std::string& router : tests::router_expressions()) {
    CAPTURE(router);
    const RandomModel random = made(router);
    const auto ids = tests::random_ids(kLength, kVocab, 6);
    const Logits whole = logits_of(random.model(), ids, moe::Rule::kDecode);
    for (const size_t piece : {size_t(1), size_t(7), size_t(kLength)}) {
      const auto pieces = in_session(random.model(), ids, piece);
      for (size_t i = 0; i < pieces.size(); ++i) {
        const size_t row = std::min((i + 1) * piece, ids.size()) - 1;
        CHECK(std::equal(pieces[i].begin(), pieces[i].end(), whole.begin() + static_cast<ptrdiff_t>(row * kVocab)));
      }
    }
  }
}

TEST_CASE("what else is in the batch does not move a bit away from training, whatever the router") {
  for (const std::string& router : tests::router_expressions()) {
    CAPTURE(router);
    const RandomModel random = made(router);
    const auto ids = tests::random_ids(8 * 11, kVocab, 7);
    for (const int sequences : {1, 2, 4, 8}) {
      const auto some = std::span(ids).first(static_cast<size_t>(sequences * 11));
      const Logits together = tests::all_logits(random.model(), some, sequences, 2);
      for (int s = 0; s < sequences; ++s) {
        const Logits alone =
            logits_of(random.model(), some.subspan(static_cast<size_t>(s * 11), 11), moe::Rule::kDecode);
        CHECK(std::equal(alone.begin(), alone.end(), together.begin() + s * 11 * kVocab));
      }
    }
  }
}

TEST_CASE("an evaluation's windows see neither later tokens nor one another, whatever the router") {
  for (const std::string& router : tests::router_expressions()) {
    CAPTURE(router);
    const RandomModel random = made(router);
    base::Threads threads(2);
    const auto ids = tests::random_ids(kLength, kVocab, 6);
    std::vector<eval::Document> documents{{ids, 0}, {tests::random_ids(30, kVocab, 8), 0}};
    const std::vector<eval::Window> windows{{0, 0, kLength - 1, 0}, {1, 0, 29, 0}};
    eval::WindowRunner runner(random.model(), documents, threads);
    const auto first = runner.logits(windows);
    const Logits before(first.data, first.data + (kLength - 1) * kVocab);
    const double nll = eval::negative_log_likelihoods(random.model(), documents, windows, threads)[0];
    documents[1].ids = tests::random_ids(30, kVocab, 9);
    CHECK(eval::negative_log_likelihoods(random.model(), documents, windows, threads)[0] == nll);
    documents[0].ids = changed(ids);
    const auto second = runner.logits(windows);
    CHECK(same_past(before, Logits(second.data, second.data + (kLength - 1) * kVocab)));
  }
}

}  // namespace
}  // namespace choir
