#include "train/examples.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "io/json.h"

namespace choir::train {

std::vector<Exchange> read_exchanges(const std::string& path) {
  if (!path.ends_with(".jsonl"))
    base::input_error("not a .jsonl file", path, "task sft takes lines {\"prompt\": ..., \"answer\": ...}");
  std::vector<Exchange> exchanges;
  for (const Line& line : read_lines(path)) {
    const io::Json json = io::parse_json(line.text, line.where);
    const io::Fields fields(json, line.where);
    exchanges.push_back({fields.get_string("prompt"), fields.get_string("answer"), line.where});
  }
  return exchanges;
}

Example make_example(const Exchange& exchange, const text::Tokenizer& tokenizer, int length) {
  std::vector<int32_t> all = tokenizer.encode_ordinary(exchange.prompt);
  std::vector<int32_t> answer = tokenizer.encode_ordinary(exchange.answer);
  if (answer.empty()) base::input_error("the answer is empty", exchange.where, "give it some text");
  const std::optional<int32_t> end = tokenizer.end_of_text();
  if (end) answer.push_back(*end);
  if (all.empty() && end) all.push_back(*end);  // what stands in front of every text
  if (all.empty())
    base::input_error("the prompt is empty", exchange.where, "give it some text: the tokenizer has no end of text");
  const size_t most = static_cast<size_t>(length) + 1;  // the last one is no input
  if (answer.size() >= most)
    base::input_error("an answer of " + std::to_string(answer.size()) + " tokens", exchange.where,
                      "sequences have " + std::to_string(length));
  if (const size_t room = most - answer.size(); all.size() > room)
    all.erase(all.begin(), all.end() - static_cast<ptrdiff_t>(room));
  const size_t prompt = all.size();
  all.insert(all.end(), answer.begin(), answer.end());
  Example example{0, {all.begin(), all.end() - 1}, {all.begin() + 1, all.end()}};
  if (prompt > 1) std::fill_n(example.targets.begin(), prompt - 1, -1);
  return example;
}

size_t ExampleOrder::at(int64_t epoch, int64_t place) {
  if (epoch != epoch_) {
    order_.resize(count_);
    std::iota(order_.begin(), order_.end(), size_t{0});
    base::Rng rng(seed_ + 0x9e3779b97f4a7c15 * static_cast<uint64_t>(epoch));
    for (size_t i = count_; i > 1; --i) std::swap(order_[i - 1], order_[rng.below(i)]);
    epoch_ = epoch;
  }
  return order_[static_cast<size_t>(place)];
}

}  // namespace choir::train
