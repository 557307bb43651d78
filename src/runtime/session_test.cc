#include "runtime/session.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "base/error.h"
#include "tests/random_model.h"

namespace choir::runtime {
namespace {

using Ids = std::vector<int32_t>;

// The first of the largest logits of the last row, from a forward over everything.
int32_t next_of(const model::Model& model, const Ids& ids) {
  const std::vector<float> logits = tests::all_logits(model, ids, 1);
  const auto last = logits.end() - model.config().vocab;
  return static_cast<int32_t>(std::max_element(last, logits.end()) - last);
}

Ids joined(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST_CASE("greedy tokens are those of a full forward over everything before them") {
  for (const int window : {0, 5}) {
    model::Config config = tests::small_config();
    config.attention.window = window;
    const tests::RandomModel random(config, 1);
    base::Threads threads(2);
    Session session(random.model(), threads);
    const Ids prompt = tests::random_ids(9, config.vocab, 2);
    const Generation answer = session.generate(prompt, {.most = 80, .sampling = {}});  // the cache must grow
    CHECK(answer.stop == Stop::kLength);
    REQUIRE(answer.ids.size() == 80);
    Ids all = prompt;
    for (const int32_t id : answer.ids) {
      CHECK(id == next_of(random.model(), all));
      all.push_back(id);
    }
    CHECK(session.length() == 88);
  }
}

TEST_CASE("logits do not depend on how ids are fed, on threads, or on what was forgotten") {
  const tests::RandomModel random(tests::small_config(), 3);
  const Ids ids = tests::random_ids(100, 67, 4);
  const std::vector<float> all = tests::all_logits(random.model(), ids, 1);
  const auto is_row = [&](std::span<const float> logits, int row) {
    return std::equal(logits.begin(), logits.end(), all.begin() + row * 67, all.begin() + (row + 1) * 67);
  };
  for (const int thread_count : {1, 2, 3})
    for (const int piece : {1, 7, 100}) {
      base::Threads threads(thread_count);
      Session session(random.model(), threads);
      for (int first = 0; first < 100; first += piece) {
        const auto count = static_cast<size_t>(std::min(piece, 100 - first));
        const auto logits = session.feed(std::span(ids).subspan(static_cast<size_t>(first), count));
        CHECK(is_row(logits, session.length() - 1));
      }
      session.rewind(30);
      session.feed(Ids(20, 5));
      session.rewind(30);
      CHECK(is_row(session.feed(std::span(ids).subspan(30, 11)), 40));
    }
}

TEST_CASE("an end token stops the answer and is no part of it, unless it is ignored") {
  model::Config config = tests::small_config();
  const tests::RandomModel plain(config, 5);
  base::Threads threads(1);
  const Ids prompt = {1, 2, 3};
  const Ids free = Session(plain.model(), threads).generate(prompt, {.most = 20, .sampling = {}}).ids;
  const int32_t end = free[6];
  const auto before = static_cast<size_t>(std::ranges::find(free, end) - free.begin());
  config.end_tokens = {66, end};
  const model::Model ending(config, plain.model().tensors());
  Session session(ending, threads);
  const Generation stopped = session.generate(prompt, {.most = 20, .sampling = {}});
  CHECK(stopped.stop == Stop::kEnd);
  CHECK(stopped.ids == Ids(free.begin(), free.begin() + static_cast<ptrdiff_t>(before)));
  CHECK(session.length() == 3 + static_cast<int>(before));
  Session deaf(ending, threads);
  CHECK(deaf.generate(prompt, {.most = 20, .sampling = {}, .ignore_end = true}).ids == free);
}

TEST_CASE("the caller sees every token and may stop") {
  const tests::RandomModel random(tests::small_config(), 6);
  base::Threads threads(1);
  Session session(random.model(), threads);
  Ids seen;
  const Generation answer =
      session.generate(Ids{4}, {.most = 50, .sampling = {.temperature = 1, .seed = 7}}, [&](int32_t id) {
        seen.push_back(id);
        return seen.size() < 5;
      });
  CHECK(answer.stop == Stop::kCaller);
  CHECK(seen.size() == 5);
  CHECK(answer.ids == seen);
  CHECK(Session(random.model(), threads).generate(Ids{4}, {.most = 5, .sampling = {.temperature = 1, .seed = 7}}).ids ==
        seen);
}

TEST_CASE("the context is a limit: prompts beyond it are refused, answers stop at it") {
  const tests::RandomModel random(tests::small_config(), 8);
  base::Threads threads(1);
  Session session(random.model(), threads, 10);
  const Generation answer = session.generate(tests::random_ids(8, 67, 9), {.most = 20, .sampling = {}});
  CHECK(answer.stop == Stop::kContext);
  CHECK(answer.ids.size() == 3);  // after 8, 9 and 10 tokens
  CHECK(session.length() == 10);
  CHECK_THROWS_AS(session.feed(Ids{1}), base::Error);
  CHECK_THROWS_AS(Session(random.model(), threads, 10).feed(Ids(11, 1)), base::Error);
  CHECK(Session(random.model(), threads, 10).feed(Ids(10, 1)).size() == 67);
  CHECK_THROWS_AS(Session(random.model(), threads, 129), base::Error);
  CHECK_THROWS_AS(Session(random.model(), threads, -1), base::Error);
  CHECK(Session(random.model(), threads).capacity() == 128);
}

TEST_CASE("a refused feed leaves the session as it was") {
  const tests::RandomModel random(tests::small_config(), 10);
  base::Threads threads(1);
  Session session(random.model(), threads), fresh(random.model(), threads);
  const Ids good = {1, 2, 3}, rest = {4, 5};
  session.feed(good);
  for (const Ids& bad : {Ids{}, Ids{1, 67}, Ids{-1}, Ids(126, 1)}) CHECK_THROWS_AS(session.feed(bad), base::Error);
  CHECK(session.length() == 3);
  const auto logits = session.feed(rest), expected = fresh.feed(joined(good, rest));
  CHECK(std::ranges::equal(logits, expected));
  CHECK_THROWS_AS(session.generate(Ids{1}, {.most = -1, .sampling = {}}), base::Error);
  CHECK_THROWS_AS(session.generate(Ids{1}, {.most = 1, .sampling = {.top_k = -1}}), base::Error);
  CHECK(session.length() == 5);
}

TEST_CASE("counts tell tokens, experts that ran and experts that were skipped") {
  model::Config config = tests::small_config();
  config.layers[1].skip_beta = 0.6f;
  const tests::RandomModel random(config, 11);
  base::Threads threads(1);
  Session session(random.model(), threads);
  int64_t observed = 0;
  session.observe([&](int layer, const moe::Routing& routing) {
    if (layer == 0) CHECK(routing.plan.edges() == 2 * routing.plan.tokens);
    observed += routing.plan.edges();
  });
  session.generate(tests::random_ids(30, 67, 12), {.most = 10, .sampling = {}});
  const Counts& counts = session.counts();
  CHECK(counts.prompt_tokens == 30);
  CHECK(counts.decode_tokens == 9);
  REQUIRE(counts.layers.size() == 2);
  CHECK(counts.layers[0].run == 39 * 2);
  CHECK(counts.layers[0].skipped == 0);
  CHECK(counts.layers[0].skipped_share() == 0);
  const ExpertCounts all = counts.experts();
  CHECK(all.run == observed);
  CHECK(all.run + all.skipped == 39 * 2 * 2);
  CHECK((all.skipped > 0 && all.skipped <= 39));
  CHECK(all.skipped == counts.layers[1].skipped);
  CHECK(all.skipped_share() == static_cast<double>(all.skipped) / 156);
  CHECK(counts.decode_tokens_per_second() > 0);
}

TEST_CASE("a request's own skipping: counted by layer, the model as it was, and none of it gives the full model") {
  model::Config config = tests::small_config();
  for (model::LayerConfig& layer : config.layers) layer.skip_beta = 0.6f;
  const tests::RandomModel random(config, 11);
  base::Threads threads(1);
  const auto ids = tests::random_ids(30, 67, 12);
  const auto logits = [&](const model::Model& model, std::vector<double>& shares) {
    Session session(model, threads);
    const auto last = session.feed(ids);
    shares.clear();
    for (const ExpertCounts& layer : session.counts().layers) shares.push_back(layer.skipped_share());
    return std::vector<float>(last.begin(), last.end());
  };
  std::vector<double> shares;
  const auto before = logits(random.model(), shares);
  CHECK((shares[0] > 0 && shares[0] < 0.5));
  const model::Model one = random.model().with_admission("skip(count=1)"), none = random.model().with_admission("all");
  CHECK(logits(one, shares) != before);
  CHECK(shares == std::vector<double>{0.5, 0.5});
  config.layers[0].skip_beta.reset();
  config.layers[1].skip_beta.reset();
  const tests::RandomModel full(config, 11);
  CHECK(logits(none, shares) == logits(full.model(), shares));
  CHECK(shares == std::vector<double>{0, 0});
  CHECK(one.tensors().blocks[0].moe.w1[0].data == random.model().tensors().blocks[0].moe.w1[0].data);
  CHECK(logits(random.model(), shares) == before);
}

}  // namespace
}  // namespace choir::runtime
