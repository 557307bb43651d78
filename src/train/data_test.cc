#include "train/data.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>

#include "train/corpus.h"
#include "train/test_run.h"

namespace choir::train {
namespace {

using Texts = std::vector<std::string>;

TEST_CASE("documents: a plain file is one, whatever is in it") {
  const TemporaryDirectory place;
  place.write("a.txt", "one\n\ntwo\n");
  CHECK(read_documents(place.file("a.txt")) == Texts{"one\n\ntwo\n"});
}

TEST_CASE("documents: a .jsonl is split at line feeds alone") {
  const TemporaryDirectory place;
  const std::string separators = "a\xe2\x80\xa8 b\xc2\x85 c\xe2\x80\xa9";  // line ends of Unicode, not of JSON lines
  place.write("a.jsonl", "{\"text\": \"one\\ntwo\"}\n\n{\"text\": \"" + separators + "\"}\r\n{\"text\": \"last\"}");
  CHECK(read_documents(place.file("a.jsonl")) == Texts{"one\ntwo", separators, "last"});
}

TEST_CASE("documents: a bad line is named") {
  const TemporaryDirectory place;
  for (const char* bad : {"{", "[]", "{\"text\": 3}", "{\"body\": \"x\"}", "{} {}"}) {
    CAPTURE(bad);
    place.write("a.jsonl", std::string("{\"text\": \"good\"}\n\n") + bad + "\n{\"text\": \"good\"}\n");
    CHECK(contains(refusal_of([&] { read_documents(place.file("a.jsonl")); }), place.file("a.jsonl") + ":3"));
  }
  CHECK(contains(refusal_of([&] { read_documents(place.file("absent")); }), "absent"));
}

TEST_CASE("domain tokens: documents one after another, each with its end") {
  const TemporaryDirectory place;
  write_tiny_texts(place);
  const TrainConfig config = tiny_run();
  const auto tokenizer = learn_tokenizer(config, place.path());
  CHECK(tokenizer->vocab_size() == 270);
  const auto domains = read_domain_tokens(config.domains, place.path(), *tokenizer, 18);
  REQUIRE(domains.size() == 2);
  CHECK(domains[1].name == "songs");
  CHECK(domains[1].weight == 1);
  std::vector<int32_t> expected;
  for (const std::string& text : read_documents(place.file("songs.jsonl"))) {
    const auto ids = tokenizer->encode_ordinary(text);
    expected.insert(expected.end(), ids.begin(), ids.end());
    expected.push_back(*tokenizer->end_of_text());
  }
  CHECK(domains[1].tokens == expected);
  const std::string refusal =
      refusal_of([&] { read_domain_tokens(config.domains, place.path(), *tokenizer, 1 << 20); });
  CHECK(contains(refusal, "\"counting\""));
  CHECK(contains(refusal, std::to_string(domains[0].tokens.size())));
}

// Every token tells where it stands and, by its thousand, in which domain.
std::vector<DomainTokens> numbered_domains() {
  std::vector<DomainTokens> domains{{"a", 1, {}}, {"b", 2, {}}, {"c", 5, {}}};
  for (int d = 0; d < 3; ++d) {
    domains[d].tokens.resize(10 + 7 * d);
    std::iota(domains[d].tokens.begin(), domains[d].tokens.end(), 1000 * d);
  }
  return domains;
}

TEST_CASE("batches: targets are the ids that follow, inside one domain") {
  const auto domains = numbered_domains();
  base::Rng rng(3), same(3), other(4);
  const TokenBatch batch = draw_batch(domains, 50, 8, rng);
  REQUIRE(batch.ids.size() == 400);
  REQUIRE(batch.targets.size() == 400);
  for (size_t i = 0; i < batch.ids.size(); ++i) {
    CHECK(batch.targets[i] == batch.ids[i] + 1);
    if (i % 8) CHECK(batch.ids[i] == batch.ids[i - 1] + 1);
    CHECK(batch.targets[i] % 1000 < static_cast<int>(domains[batch.ids[i] / 1000].tokens.size()));
  }
  CHECK(draw_batch(domains, 50, 8, same).ids == batch.ids);
  CHECK(rng.state() == same.state());
  CHECK(draw_batch(domains, 50, 8, other).ids != batch.ids);
}

TEST_CASE("batches: domains by weight, places evenly") {
  const auto domains = numbered_domains();
  base::Rng rng(5);
  constexpr int kDraws = 40000, kLength = 8;
  const TokenBatch batch = draw_batch(domains, kDraws, kLength, rng);
  double chi_square = 0;
  int cells = 0;
  for (int d = 0; d < 3; ++d) {
    const int places = static_cast<int>(domains[d].tokens.size()) - kLength;
    std::vector<int> seen(places);
    for (int s = 0; s < kDraws; ++s)
      if (batch.ids[s * kLength] / 1000 == d) ++seen.at(batch.ids[s * kLength] % 1000);
    const double expected = kDraws * domains[d].weight / 8 / places;
    for (const int n : seen) chi_square += (n - expected) * (n - expected) / expected;
    cells += places;
  }
  REQUIRE(cells == 27);
  CHECK(chi_square < 54.1);  // 26 degrees of freedom: one seed in a thousand would fail
}

TEST_CASE("held out: the end of each domain, in whole sequences, never drawn") {
  const TemporaryDirectory place;
  write_tiny_texts(place);
  const TrainConfig config = tiny_run();
  const auto tokenizer = learn_tokenizer(config, place.path());
  std::vector<DomainTokens> domains{{"a", 1, {}}, {"b", 1, {}}};
  for (int d = 0; d < 2; ++d) {
    domains[d].tokens.resize(d == 0 ? 100 : 5000);
    std::iota(domains[d].tokens.begin(), domains[d].tokens.end(), 10000 * d);
  }
  EvaluationPlan evaluation{.every = 1, .tokens = 60, .files = {}};
  hold_out(domains, evaluation, 8, place.path(), *tokenizer);
  CHECK(domains[0].held_out.size() == 9);          // 2 % would be less than a sequence
  CHECK(domains[1].held_out.size() == 7 * 8 + 1);  // 100 would be more than 60
  CHECK(domains[0].tokens.back() + 1 == domains[0].held_out.front());
  CHECK(domains[1].held_out.back() == 14999);
  base::Rng rng(3);
  const TokenBatch batch = draw_batch(domains, 3000, 8, rng);
  for (const int32_t id : batch.targets) CHECK((id < 91 || (id >= 10000 && id < 15000 - 57)));

  const auto batches = held_out_batches(domains, 3, 8);
  REQUIRE(batches.size() == 3);
  CHECK(batches[2].sequences.size() == 2);
  std::vector<int32_t> seen;
  for (const TokenBatch& b : batches)
    for (size_t i = 0; i < b.ids.size(); ++i) {
      CHECK(b.targets[i] == b.ids[i] + 1);
      seen.push_back(b.ids[i]);
    }
  std::ranges::sort(seen);
  CHECK(seen.size() == 64);
  CHECK(std::ranges::adjacent_find(seen) == seen.end());

  place.write("own.txt", std::string(500, 'x') + "the choir sings " + std::string(500, 'y'));
  evaluation.files["a"] = "own.txt";
  domains[0] = {"a", 1, std::vector<int32_t>(100)};
  hold_out(domains, evaluation, 8, place.path(), *tokenizer);
  CHECK(domains[0].tokens.size() == 100);
  CHECK(domains[0].held_out.size() == 57);
  place.write("own.txt", "x");
  domains[0].held_out.clear();
  CHECK(contains(refusal_of([&] { hold_out(domains, evaluation, 8, place.path(), *tokenizer); }), "own.txt"));
  domains[0] = {"short", 1, std::vector<int32_t>(18)};
  CHECK(contains(refusal_of([&] { hold_out(domains, evaluation, 8, place.path(), *tokenizer); }), "short"));
}

TEST_CASE("nodes: by the place in the batch or by the domain") {
  TokenBatch batch;
  const std::vector<int32_t> two{5, 6}, three{7, 8, 9};
  for (const int d : {0, 2, 1, 2}) batch.add(d, d == 2 ? three : two, d == 2 ? three : two);
  CHECK(nodes_of(batch, {}) == std::vector<int32_t>(10, 0));
  CHECK(nodes_of(batch, {2, Placement::Pin::kBatch}) == std::vector<int32_t>{0, 0, 0, 0, 0, 1, 1, 1, 1, 1});
  CHECK(nodes_of(batch, {2, Placement::Pin::kDomain}) == std::vector<int32_t>{0, 0, 0, 0, 0, 1, 1, 0, 0, 0});
}

}  // namespace
}  // namespace choir::train
