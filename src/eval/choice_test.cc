#include "eval/choice.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/error.h"
#include "tests/random_model.h"
#include "text/bpe_trainer.h"

namespace choir::eval {
namespace {

using Ids = std::vector<int32_t>;
using doctest::Approx;

// <|endoftext|> is 0, byte b is 1 + b, and nothing was learnt: ids can be written down by hand.
std::unique_ptr<const text::Tokenizer> byte_tokenizer() { return text::BpeTrainer({257, {"<|endoftext|>"}}).train(); }

Ids bytes(const std::string& text) {
  Ids ids;
  for (const char c : text) ids.push_back(1 + static_cast<unsigned char>(c));
  return ids;
}

model::Config byte_config() {
  model::Config config = tests::small_config();
  config.vocab = 257;
  return config;
}

double log_probability(const Model& model, const Ids& ids, size_t from) {
  const Ids inputs(ids.begin(), ids.end() - 1);
  const std::vector<float> logits = tests::all_logits(model, inputs, 1);
  double result = 0;
  for (size_t i = from; i < ids.size(); ++i) {
    const float* row = &logits[(i - 1) * 257];
    double sum = 0;
    for (int v = 0; v < 257; ++v) sum += std::exp(static_cast<double>(row[v]));
    result += static_cast<double>(row[ids[i]]) - std::log(sum);
  }
  return result;
}

std::string refusal(const std::string& lines) {
  try {
    parse_questions(lines, "q.jsonl");
  } catch (const base::Error& error) {
    return error.fault == base::Fault::kInput ? error.what() : "";
  }
  return "";
}

// A model whose next token is the same whatever was before: the embedding is constant, the attention and the experts
// give nothing, and the head's scores are what `logit` says.
tests::RandomModel constant_model(const std::vector<std::pair<char, float>>& logit) {
  tests::RandomModel random(byte_config(), 1);
  model::ModelTensors<tensor::Weight> tensors = random.model().tensors();
  model::visit_tensors(random.model().config(), tensors, [](const model::TensorInfo& info, tensor::Weight& weight) {
    const auto numbers = tests::RandomModel::numbers(weight);
    const bool one = info.vector || info.name == "model.embed_tokens.weight";
    std::fill_n(numbers.data, weight.size(), one ? 1.0f : 0.0f);
  });
  const auto head = tests::RandomModel::numbers(random.model().tensors().head);
  for (const auto& [letter, value] : logit) head[1 + static_cast<unsigned char>(letter)][0] = value;
  return random;
}

TEST_CASE("pairs are split the way the harness splits them") {
  const auto tokenizer = byte_tokenizer();
  const auto check = [&](const std::string& context, const std::string& choice, const Ids& before, const Ids& after) {
    const Pair pair = encode_pair(*tokenizer, context, choice);
    CHECK(pair.context == before);
    CHECK(pair.continuation == after);
  };
  check("ab", " cd", bytes("ab"), bytes(" cd"));
  check("ab \n", "cd", bytes("ab"), bytes(" \ncd"));
  check("", "cd", {0}, bytes("cd"));
  check(" ", "cd", {0}, bytes(" cd"));
  check("", "<|endoftext|>cd", {0}, bytes("cd"));
  CHECK_THROWS_AS(encode_pair(*text::BpeTrainer({256, {}}).train(), "", "cd"), base::Error);
  CHECK_THROWS_AS(encode_pair(*tokenizer, "", "<|endoftext|>"), base::Error);

  text::BpeTrainer trainer({258, {"<|endoftext|>"}});
  trainer.add("abababab");
  const auto merging = trainer.train();
  REQUIRE(merging->encode("ab") == Ids{257});
  CHECK(encode_pair(*merging, "ca", "bd").context == bytes("ca"));
  CHECK(encode_pair(*merging, "ca", "bd").continuation == bytes("d"));  // c ab d, less two
  CHECK_THROWS_AS(encode_pair(*merging, "a", "b"), base::Error);
}

TEST_CASE("log-likelihoods are what a plain loop says; long contexts are cut from the left") {
  const auto tokenizer = byte_tokenizer();
  const tests::RandomModel random(byte_config(), 2);
  base::Threads threads(2);
  const std::string longer(200, 'x');
  const std::vector<Question> questions = {{"What?", {" yes", " no", " maybe so"}, 0}, {longer, {" yes", " n"}, 1}};
  const Choices found = answer(random.model(), *tokenizer, questions, threads);
  CHECK(found.items == 2);
  for (size_t c = 0; c < 3; ++c)
    CHECK(found.log_likelihoods[0][c] ==
          Approx(log_probability(random.model(), bytes("What?" + questions[0].choices[c]), 5)).epsilon(1e-6));
  for (size_t c = 0; c < 2; ++c) {
    const std::string& choice = questions[1].choices[c];
    const Ids whole = bytes(longer + choice), last(whole.end() - 129, whole.end());  // 128 inputs
    CHECK(found.log_likelihoods[1][c] ==
          Approx(log_probability(random.model(), last, 129 - choice.size())).epsilon(1e-6));
  }
  const std::vector<Question> endless = {{"a", {std::string(129, 'b')}, 0}};
  CHECK_THROWS_AS(answer(random.model(), *tokenizer, endless, threads), base::Error);
  CHECK_THROWS_AS(answer(random.model(), *tokenizer, std::vector<Question>{}, threads), base::Error);
}

TEST_CASE("the metrics of a case worked out by hand") {
  // Logits: a 4, b 3.4, the first byte of "é" 3, its second 4, all others 0. log(2 e^4 + e^3.4 + e^3 + 253) = 6.02, so
  // log p is -2.02 for a, -2.62 for b, and -5.04 for both bytes of "é" together.
  const tests::RandomModel model = constant_model({{'a', 4.0f}, {'b', 3.4f}, {'\xc3', 3.0f}, {'\xa9', 4.0f}});
  const double norm = std::log(2 * std::exp(4.0) + std::exp(3.4) + std::exp(3.0) + 253);
  const auto tokenizer = byte_tokenizer();
  base::Threads threads(1);
  const std::vector<Question> questions = {
      {"q", {"b", "aa"}, 0},  // as a whole b, -2.62 to -4.04; by length aa, -2.62 to -2.02
      {"q", {"b", "aa"}, 1},
      {"q",
       {"bb", "é"},
       0},  // as a whole é, -5.24 to -5.04; by characters bb, -2.62 to -5.04; by bytes é, -2.62 to -2.52
      {"q", {"a", "a"}, 0},  // the first of equals
      {"q", {"a", "a"}, 1},
  };
  const Choices found = answer(model.model(), *tokenizer, questions, threads);
  CHECK(found.log_likelihoods[0][0] == Approx(3.4 - norm).epsilon(1e-4));
  CHECK(found.log_likelihoods[0][1] == Approx(8 - 2 * norm).epsilon(1e-4));
  CHECK(found.log_likelihoods[2][1] == Approx(7 - 2 * norm).epsilon(1e-4));
  CHECK(found.items == 5);
  CHECK(found.acc == Approx(2.0 / 5));        // the first and the fourth
  CHECK(found.acc_norm == Approx(3.0 / 5));   // the second, third and fourth
  CHECK(found.acc_bytes == Approx(2.0 / 5));  // the second and fourth
}

TEST_CASE("the blank that joins a choice to its context is not counted as its length") {
  const tests::RandomModel model = constant_model({{'a', 4.0f}, {'b', 3.4f}, {' ', 9.0f}});
  const auto tokenizer = byte_tokenizer();
  base::Threads threads(1);
  // With the blank, whose log p is nearly 0, counted, "b" would be 1.4 of 2 characters against 4.1 of 3.
  const Choices joined = answer(model.model(), *tokenizer, std::vector<Question>{{"q", {" b", " aaa"}, 0}}, threads);
  const double b = joined.log_likelihoods[0][0], aaa = joined.log_likelihoods[0][1];
  CHECK(joined.acc == 1);
  CHECK(b / 2 > aaa / 4);
  CHECK(b / 1 < aaa / 3);
  CHECK(joined.acc_norm == 0);
}

TEST_CASE("lines are questions; what is none is named with file, line and field") {
  const auto questions = parse_questions(
      "{\"context\": \"a\\u2028b\", \"choices\": [\"c\"], \"gold\": 0, \"id\": 7}\r\n\n  \n"
      "{\"gold\": 1, \"choices\": [\"x\", \"y\"], \"context\": \"\"}",
      "q.jsonl");
  REQUIRE(questions.size() == 2);
  CHECK(questions[0].context ==
        "a\xe2\x80\xa8"
        "b");
  CHECK(questions[1].gold == 1);
  const std::string good = "{\"context\":\"a\",\"choices\":[\"b\"],\"gold\":0}\n";
  for (const char* bad :
       {"{", "[]", "7", "{\"context\":\"a\",\"gold\":0}", "{\"context\":\"a\",\"choices\":[],\"gold\":0}",
        "{\"context\":\"a\",\"choices\":\"b\",\"gold\":0}", "{\"context\":\"a\",\"choices\":[\"b\",3],\"gold\":0}",
        "{\"context\":\"a\",\"choices\":[\"\"],\"gold\":0}", "{\"context\":\"a\",\"choices\":[\"b\"],\"gold\":1}",
        "{\"context\":\"a\",\"choices\":[\"b\"],\"gold\":-1}", "{\"context\":\"a\",\"choices\":[\"b\"]}",
        "{\"choices\":[\"b\"],\"gold\":0}"}) {
    CAPTURE(bad);
    CHECK(refusal(good + bad).find("q.jsonl:2") != std::string::npos);
  }
  CHECK(refusal("").find("q.jsonl") != std::string::npos);
  CHECK(refusal("\n\n") != "");
  CHECK_THROWS_AS(read_questions("/nowhere/q.jsonl"), base::Error);
}

}  // namespace
}  // namespace choir::eval
