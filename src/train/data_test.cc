#include "train/data.h"

#include <doctest/doctest.h>

#include <numeric>

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
  const auto tokenizer = learn_tokenizer(config.domains, place.path(), 270);
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

}  // namespace
}  // namespace choir::train
