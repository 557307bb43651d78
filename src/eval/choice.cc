#include "eval/choice.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/json.h"

namespace choir::eval {
namespace {

constexpr int kMostChoices = 1000;

Question parse_question(const std::string& line, const std::string& where) {
  const io::Json json = io::parse_json(line, where);
  const io::Fields fields(json, where);
  Question question{fields.get_string("context"), {}, 0};
  const auto choices = json.find("choices");
  if (choices == json.end() || !choices->is_array() || choices->empty() || choices->size() > kMostChoices)
    base::input_error("not an array of choices", where + ": choices", "one or more texts");
  for (const io::Json& choice : *choices) {
    if (!choice.is_string() || choice.get_ref<const std::string&>().empty())
      base::input_error("not a text, or an empty one", where + ": choices", "each choice is a text");
    question.choices.push_back(choice.get<std::string>());
  }
  question.gold = static_cast<int>(fields.get_int("gold", 0, static_cast<int64_t>(question.choices.size()) - 1));
  return question;
}

bool starts_with(const std::vector<int32_t>& ids, int32_t first) { return !ids.empty() && ids.front() == first; }

// A choice usually begins with the blank that parts it from the context; the harness does not count that one.
std::string_view counted(std::string_view choice) {
  if (choice.size() > 1 && choice.front() == ' ') choice.remove_prefix(1);
  return choice;
}

// Every byte but the continuation bytes 10xxxxxx begins a code point.
int64_t characters(std::string_view text) {
  return std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

// All (question, choice) as windows of one document each.
struct Candidates {
  std::vector<Document> documents;
  std::vector<Window> windows;

  void add(Pair pair, int positions, const std::string& where) {
    const int choice = static_cast<int>(pair.continuation.size());
    if (choice > positions)
      base::input_error("a choice of " + std::to_string(choice) + " tokens", where,
                        "the model takes " + std::to_string(positions));
    std::vector<int32_t>& ids = pair.context;
    ids.insert(ids.end(), pair.continuation.begin(), pair.continuation.end());
    if (const int excess = static_cast<int>(ids.size()) - (positions + 1); excess > 0)
      ids.erase(ids.begin(), ids.begin() + excess);
    const int inputs = static_cast<int>(ids.size()) - 1;
    windows.push_back({static_cast<int>(documents.size()), 0, inputs, inputs - choice});
    documents.push_back({std::move(ids), 0});
  }
};

template <class Score>
bool right(const Question& question, const std::vector<double>& log_likelihoods, const Score& length) {
  std::vector<double> scores;
  for (size_t c = 0; c < log_likelihoods.size(); ++c)
    scores.push_back(log_likelihoods[c] / static_cast<double>(length(counted(question.choices[c]))));
  return std::ranges::max_element(scores) - scores.begin() == question.gold;
}

void grade(std::span<const Question> questions, Choices& result) {
  int plain = 0, by_characters = 0, by_bytes = 0;
  for (size_t q = 0; q < questions.size(); ++q) {
    const auto& scores = result.log_likelihoods[q];
    plain += right(questions[q], scores, [](std::string_view) { return 1; });
    by_characters +=
        right(questions[q], scores, [](std::string_view c) { return std::max<int64_t>(1, characters(c)); });
    by_bytes += right(questions[q], scores, [](std::string_view c) { return c.size(); });
  }
  result.items = static_cast<int>(questions.size());
  result.acc = static_cast<double>(plain) / result.items;
  result.acc_norm = static_cast<double>(by_characters) / result.items;
  result.acc_bytes = static_cast<double>(by_bytes) / result.items;
}

}  // namespace

std::vector<Question> parse_questions(const std::string& text, const std::string& where) {
  std::vector<Question> questions;
  int number = 0;
  for (size_t begin = 0; begin < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    questions.push_back(parse_question(line, where + ":" + std::to_string(number + 1)));
  }
  if (questions.empty())
    base::input_error("no questions", where, "a line is {\"context\": ..., \"choices\": [...], \"gold\": 0}");
  return questions;
}

std::vector<Question> read_questions(const std::string& path) { return parse_questions(base::read_file(path), path); }

Pair encode_pair(const text::Tokenizer& tokenizer, std::string context, std::string continuation) {
  const size_t kept = context.find_last_not_of(" \t\n\r\f\v") + 1;  // npos + 1 is 0
  continuation.insert(0, context, kept);
  context.resize(kept);
  Pair pair{tokenizer.encode(context), tokenizer.encode(context + continuation)};
  if (pair.context.empty()) {
    const auto prefix = prefix_token(tokenizer);
    if (!prefix) base::input_error("an empty context", "choices", "the tokenizer has no token to begin a text with");
    if (!starts_with(pair.continuation, *prefix)) pair.continuation.insert(pair.continuation.begin(), *prefix);
    pair.context = {*prefix};
  }
  const size_t before = std::min(pair.context.size(), pair.continuation.size());
  pair.continuation.erase(pair.continuation.begin(), pair.continuation.begin() + static_cast<ptrdiff_t>(before));
  if (pair.continuation.empty())
    base::input_error("no token is left of the choice \"" + continuation + "\"", "choices",
                      "context and choice melt into one token: begin the choice with a blank");
  return pair;
}

Choices answer(const Model& model, const text::Tokenizer& tokenizer, std::span<const Question> questions,
               base::Threads& threads, const model::Observer& observer) {
  if (questions.empty()) base::input_error("no questions", "choices", "give at least one");
  Candidates candidates;
  for (size_t q = 0; q < questions.size(); ++q)
    for (const std::string& choice : questions[q].choices)
      candidates.add(encode_pair(tokenizer, questions[q].context, choice), model.positions(),
                     "question " + std::to_string(q + 1));
  const std::vector<double> nll =
      negative_log_likelihoods(model, candidates.documents, candidates.windows, threads, observer);
  Choices result;
  auto next = nll.begin();
  for (const Question& question : questions) {
    auto& scores = result.log_likelihoods.emplace_back();
    for (size_t c = 0; c < question.choices.size(); ++c) scores.push_back(-*next++);
  }
  grade(questions, result);
  return result;
}

}  // namespace choir::eval
