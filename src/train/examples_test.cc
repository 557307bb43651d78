#include "train/examples.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "text/bpe_trainer.h"
#include "train/corpus.h"
#include "train/test_run.h"

namespace choir::train {
namespace {

const char* kLines =
    "{\"prompt\": \"two and two\", \"answer\": \" is four\"}\n"
    "{\"prompt\": \"\", \"answer\": \"four\"}\n"
    "\n"
    "{\"prompt\": \"a prompt that is much longer than all others\", \"answer\": \" yes\"}\n";

TrainConfig sft_run() {
  TrainConfig config = tiny_run();
  config.task = Task::kExamples;
  config.domains = {{"sums", 1, {"sums.jsonl"}}, {"songs", 1, {"songs.jsonl"}}};
  return config;
}

void write_exchanges(const TemporaryDirectory& place) {
  std::string sums, songs;
  for (int i = 0; i < 60; ++i) {
    sums += "{\"prompt\": \"" + std::to_string(i) + "+1=\", \"answer\": \"" + std::to_string(i + 1) + "\"}\n";
    songs += "{\"prompt\": \"sing " + std::string(static_cast<size_t>(i % 5), 'l') + "\", \"answer\": \"la" +
             std::string(static_cast<size_t>(i % 3), 'a') + "\"}\n";
  }
  place.write("sums.jsonl", sums);
  place.write("songs.jsonl", songs);
}

TEST_CASE("examples: answer and end are the targets, prompts are not") {
  const TemporaryDirectory place;
  place.write("sums.jsonl", kLines);
  place.write("songs.jsonl", kLines);
  const auto tokenizer = learn_tokenizer(sft_run(), place.path());
  const auto exchanges = read_exchanges(place.file("sums.jsonl"));
  REQUIRE(exchanges.size() == 3);
  CHECK(exchanges[2].where == place.file("sums.jsonl") + ":4");

  const auto prompt = tokenizer->encode_ordinary("two and two"), answer = tokenizer->encode_ordinary(" is four");
  const Example example = make_example(exchanges[0], *tokenizer, 64);
  std::vector<int32_t> ids = prompt;
  ids.insert(ids.end(), answer.begin(), answer.end());
  CHECK(example.ids == ids);
  std::vector<int32_t> targets(prompt.size() - 1, -1);
  targets.insert(targets.end(), answer.begin(), answer.end());
  targets.push_back(*tokenizer->end_of_text());
  CHECK(example.targets == targets);

  const Example alone = make_example(exchanges[1], *tokenizer, 64);
  CHECK(alone.ids.front() == *tokenizer->end_of_text());
  CHECK(std::ranges::count(alone.targets, -1) == 0);
  CHECK(alone.targets.back() == *tokenizer->end_of_text());

  const Example whole = make_example(exchanges[2], *tokenizer, 64), cut = make_example(exchanges[2], *tokenizer, 8);
  REQUIRE(cut.ids.size() == 8);
  CHECK(std::ranges::equal(cut.ids, std::span(whole.ids).last(8)));
  CHECK(std::ranges::equal(cut.targets, std::span(whole.targets).last(8)));
  const int length = static_cast<int>(tokenizer->encode_ordinary(" yes").size());
  CHECK(make_example(exchanges[2], *tokenizer, length + 1).ids.size() == static_cast<size_t>(length + 1));
  CHECK(contains(refusal_of([&] { make_example(exchanges[2], *tokenizer, length); }), "sums.jsonl:4"));
}

TEST_CASE("examples: without an end of text an empty prompt is refused by line") {
  const TemporaryDirectory place;
  const auto tokenizer = text::BpeTrainer({.vocab_size = 257, .special_tokens = {}}).train();
  REQUIRE(!tokenizer->end_of_text());
  CHECK(make_example({"a", "b", "x.jsonl:1"}, *tokenizer, 8).ids.size() == 1);
  CHECK(contains(refusal_of([&] { make_example({"", "b", "x.jsonl:2"}, *tokenizer, 8); }), "x.jsonl:2"));
}

TEST_CASE("examples: held-out files are bounded, and hold something") {
  const TemporaryDirectory place;
  write_exchanges(place);
  TrainConfig config = sft_run();
  const auto tokenizer = learn_tokenizer(config, place.path());
  config.evaluation = {.every = 1, .tokens = 30, .files = {{"songs", "held.jsonl"}}};
  place.write("held.jsonl", base::read_file(place.file("sums.jsonl")));
  size_t held_out = 0;
  const Corpus corpus(config, place.path(), *tokenizer);
  for (const TokenBatch& batch : corpus.held_out().batches)
    for (const model::Sequence& rows : batch.sequences) held_out += static_cast<size_t>(rows.count);
  CHECK(held_out > 30);
  CHECK(held_out <= 2 * 30);
  place.write("held.jsonl", "\n");
  CHECK(contains(refusal_of([&] { Corpus(config, place.path(), *tokenizer); }), "held.jsonl"));
}

TEST_CASE("examples: bad files are refused by line") {
  const TemporaryDirectory place;
  place.write("a.jsonl", "{\"prompt\": \"x\", \"answer\": \"y\"}\n{\"text\": \"x\"}\n");
  CHECK(contains(refusal_of([&] { read_exchanges(place.file("a.jsonl")); }), "a.jsonl:2"));
  place.write("a.txt", "x");
  CHECK(contains(refusal_of([&] { read_exchanges(place.file("a.txt")); }), "a.txt"));
}

TEST_CASE("examples: each time through holds every example once, in another order") {
  ExampleOrder order(50, 3), again(50, 3);
  std::vector<size_t> first, second;
  for (int i = 0; i < 50; ++i) first.push_back(order.at(0, i));
  for (int i = 0; i < 50; ++i) second.push_back(order.at(1, i));
  CHECK(std::set(first.begin(), first.end()).size() == 50);
  CHECK(std::set(second.begin(), second.end()).size() == 50);
  CHECK(first != second);
  CHECK(again.at(1, 7) == second[7]);
  CHECK(again.at(0, 7) == first[7]);
}

TEST_CASE("examples: batches of whole examples, nothing between them, none held out") {
  const TemporaryDirectory place;
  write_exchanges(place);
  TrainConfig config = sft_run();
  config.evaluation = {.every = 1, .tokens = 40, .files = {}};
  const auto tokenizer = learn_tokenizer(config, place.path());
  Corpus corpus(config, place.path(), *tokenizer);
  const auto key = [](const TokenBatch& batch, size_t s) {
    const model::Sequence& rows = batch.sequences[s];
    return std::vector<int32_t>(batch.ids.begin() + rows.row, batch.ids.begin() + rows.row + rows.count);
  };
  std::set<std::vector<int32_t>> held_out;
  for (const TokenBatch& batch : corpus.held_out().batches)
    for (size_t s = 0; s < batch.sequences.size(); ++s)
      if (batch.domains[s] == 0) held_out.insert(key(batch, s));  // sums are all different
  CHECK(!held_out.empty());
  Progress progress{0, base::Rng(1).state()};
  size_t seen = 0;
  std::set<int> lengths;
  while (progress.epoch == 0) {
    const auto batches = corpus.draw(progress);
    REQUIRE(batches.size() == 1);
    CHECK(batches[0].ids.size() <= 48);
    size_t rows = 0;
    for (size_t s = 0; s < batches[0].sequences.size(); ++s) {
      CHECK(batches[0].sequences[s].row == static_cast<int>(rows));
      rows += static_cast<size_t>(batches[0].sequences[s].count);
      lengths.insert(batches[0].sequences[s].count);
      CHECK(!held_out.contains(key(batches[0], s)));
    }
    CHECK(rows == batches[0].ids.size());
    seen += batches[0].sequences.size();
  }
  CHECK(lengths.size() > 1);
  CHECK(seen >= corpus.examples());
}

}  // namespace
}  // namespace choir::train
