#include "moe/router.h"

#include <cstdlib>
#include <utility>

#include "base/error.h"
#include "moe/registry.h"

namespace choir::moe {
namespace {

[[noreturn]] void grammar_error(const std::string& what) {
  base::usage_error(what, "router", "write score > propose > admit > weigh + balance, or an alias such as mixtral");
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts{""};
  for (const char c : text) {
    if (c == separator)
      parts.emplace_back();
    else if (c != ' ' && c != '\t' && c != '\n')
      parts.back() += c;
  }
  return parts;
}

Phrase parse_phrase(const std::string& text) {
  const size_t open = text.find('(');
  Phrase phrase{text.substr(0, open), {}};
  if (open == std::string::npos) return phrase;
  if (text.back() != ')') grammar_error("a bracket is missing in \"" + text + "\"");
  for (const std::string& argument : split(text.substr(open + 1, text.size() - open - 2), ',')) {
    char* end = nullptr;
    const double value = std::strtod(argument.c_str(), &end);
    if (argument.empty() || *end) grammar_error("\"" + argument + "\" in \"" + text + "\" is not a number");
    phrase.arguments.push_back(value);
  }
  return phrase;
}

}  // namespace

Router::Router(Words words) : words_(std::make_shared<const Words>(std::move(words))) {}

int Router::choices() const {
  return std::visit([](const auto& propose) { return propose.k; }, words_->propose);
}

std::string Router::expression() const { return write_out(*words_); }

void Router::route(tensor::Matrix<const float> x, const tensor::Weight& gate, Balancing balancing, Routing& routing,
                   base::Threads& threads) const {
  routing.score.reserve(static_cast<size_t>(x.rows) * static_cast<size_t>(gate.rows));
  const tensor::Matrix<float> z = routing.score.matrix(x.rows, gate.rows);
  std::visit([&](const auto& score) { score.forward(x, gate, z, threads); }, words_->score);
  std::visit([&](const auto& propose) { propose.propose(z, routing.proposed); }, words_->propose);
  routing.chosen = routing.proposed;
  std::visit([&](const auto& admit) { admit.admit(z, choices(), routing.chosen); }, words_->admit);
  build_plan(routing.chosen, x.rows, choices(), gate.rows, routing.plan);
  std::visit([&](const auto& weigh) { weigh.forward(z, routing.plan); }, words_->weigh);
  routing.balance_loss = 0;
  if (balancing == Balancing::kOff) return;
  for (const Balance& word : words_->balance)
    routing.balance_loss += std::visit([&](const auto& b) { return b.loss(z, routing.proposed, {}); }, word);
}

void Router::backward(const Backward& step, tensor::Matrix<const float> x, const tensor::Weight& gate,
                      const Routing& routing, base::Threads& threads) const {
  const tensor::Matrix<const float> z = routing.scores(gate.rows);
  const tensor::Buffer<float> buffer(static_cast<size_t>(z.rows) * static_cast<size_t>(z.cols));
  const tensor::Matrix<float> dz = buffer.matrix(z.rows, z.cols);
  for (const Balance& word : words_->balance)
    std::visit([&](const auto& b) { return b.loss(z, routing.proposed, dz); }, word);
  for (float& d : buffer.span()) d *= step.balance_scale;
  std::visit([&](const auto& weigh) { weigh.backward(step.dweight, routing.plan, dz); }, words_->weigh);
  std::visit(
      [&](const auto& score) {
        score.backward(dz, x, tensor::as_matrix(gate), {step.dx, step.dgate}, threads);
      },
      words_->score);
}

Router parse_router(const std::string& expression) {
  const std::vector<std::string> words = split(expand_alias(expression), '>');
  if (words.size() != 4) grammar_error("\"" + expression + "\" is not a router");
  const std::vector<std::string> last = split(words[3], '+');
  Words made{make_score(parse_phrase(words[0])),
             make_propose(parse_phrase(words[1])),
             make_admit(parse_phrase(words[2])),
             make_weigh(parse_phrase(last[0])),
             {}};
  for (size_t i = 1; i < last.size(); ++i) made.balance.push_back(make_balance(parse_phrase(last[i])));
  const Router router(made);
  if (std::holds_alternative<Skip>(made.admit) && router.choices() != 2)
    base::usage_error("skip(beta) is defined for top_k(2)", "router", "use all with other top_k");
  return router;
}

void check_router(const Router& router, int experts, const std::string& where) {
  if (router.choices() > experts)
    base::input_error(
        "the router chooses " + std::to_string(router.choices()) + " of " + std::to_string(experts) + " experts", where,
        "lower top-k or keep more experts");
}

}  // namespace choir::moe
