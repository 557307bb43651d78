#include "text/template_expressions.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace choir::text::jinja {
namespace {

using Kind = Expression::Kind;

constexpr int kMostNesting = 150;
constexpr int kMostDepth = 400;  // of a tree, in which operators in a row are as deep as nested ones

}  // namespace

ExpressionParser::Nesting::Nesting(ExpressionParser& parser) : depth_(parser.depth_) {
  if (depth_ >= kMostNesting) parser.error("nested too deeply");
  ++depth_;
}

bool ExpressionParser::take_operator(std::string_view text) {
  if (!is_operator(text)) return false;
  take();
  return true;
}

bool ExpressionParser::take_name(std::string_view text) {
  if (!is_name(text)) return false;
  take();
  return true;
}

void ExpressionParser::expect_operator(std::string_view text) {
  if (!take_operator(text)) error("'" + std::string(text) + "' is missing before '" + token().text + "'");
}

std::string ExpressionParser::expect_name() {
  if (!is(Token::Kind::kName)) error("a name is missing before '" + token().text + "'");
  return take().text;
}

void ExpressionParser::expect(Token::Kind kind, const char* what) {
  if (!is(kind)) error(std::string(what) + " is missing before '" + token().text + "'");
  take();
}

ExpressionPtr ExpressionParser::node(Kind kind, std::string name) const {
  auto made = std::make_unique<Expression>();
  made->kind = kind;
  made->line = token().line;
  made->name = std::move(name);
  return made;
}

void ExpressionParser::adopt(Expression& parent, ExpressionPtr part) const {
  if (part) parent.depth = std::max(parent.depth, part->depth + 1);
  if (parent.depth > kMostDepth) error("an expression that is nested too deeply");
  parent.parts.push_back(std::move(part));
}

void ExpressionParser::adopt_arguments(Expression& parent) {
  parent.arguments = parse_arguments();
  for (const Argument& argument : parent.arguments) parent.depth = std::max(parent.depth, argument.value->depth + 1);
  if (parent.depth > kMostDepth) error("an expression that is nested too deeply");
}

ExpressionPtr ExpressionParser::binary(ExpressionPtr left, std::string name, ExpressionPtr right) const {
  auto made = node(Kind::kBinary, std::move(name));
  adopt(*made, std::move(left));
  adopt(*made, std::move(right));
  return made;
}

ExpressionPtr ExpressionParser::parse_expression() {
  const Nesting nesting(*this);
  ExpressionPtr value = parse_or();
  while (is_name("if")) {
    auto made = node(Kind::kCondition);
    take();
    adopt(*made, std::move(value));
    adopt(*made, parse_or());
    adopt(*made, take_name("else") ? parse_expression() : nullptr);
    value = std::move(made);
  }
  return value;
}

// The levels from `or` down to powers are the same loop over other operators.
ExpressionPtr ExpressionParser::parse_or() {
  ExpressionPtr value = parse_and();
  while (is_name("or")) {
    take();
    value = binary(std::move(value), "or", parse_and());
  }
  return value;
}

ExpressionPtr ExpressionParser::parse_and() {
  ExpressionPtr value = parse_not();
  while (is_name("and")) {
    take();
    value = binary(std::move(value), "and", parse_not());
  }
  return value;
}

ExpressionPtr ExpressionParser::parse_not() {
  if (!is_name("not")) return parse_comparison();
  const Nesting nesting(*this);
  auto made = node(Kind::kUnary, "not");
  take();
  adopt(*made, parse_not());
  return made;
}

// Consumes a comparison, if one stands here.
std::string ExpressionParser::comparison_here() {
  for (const std::string_view known : {"==", "!=", "<=", ">=", "<", ">"})
    if (take_operator(known)) return std::string(known);
  if (take_name("in")) return "in";
  if (!is_name("not") || tokens_[at_ + 1].kind != Token::Kind::kName || tokens_[at_ + 1].text != "in") return "";
  take();
  take();
  return "not in";
}

ExpressionPtr ExpressionParser::parse_comparison() {
  ExpressionPtr value = parse_sum();
  std::string name = comparison_here();
  if (name.empty()) return value;
  auto made = node(Kind::kCompare);
  adopt(*made, std::move(value));
  for (; !name.empty(); name = comparison_here()) {
    made->names.push_back(name);
    adopt(*made, parse_sum());
  }
  return made;
}

ExpressionPtr ExpressionParser::parse_sum() {
  ExpressionPtr value = parse_concatenation();
  while (is_operator("+") || is_operator("-")) {
    std::string name = take().text;
    value = binary(std::move(value), std::move(name), parse_concatenation());
  }
  return value;
}

ExpressionPtr ExpressionParser::parse_concatenation() {
  ExpressionPtr value = parse_product();
  while (is_operator("~")) {
    take();
    value = binary(std::move(value), "~", parse_product());
  }
  return value;
}

ExpressionPtr ExpressionParser::parse_product() {
  ExpressionPtr value = parse_power();
  while (is_operator("*") || is_operator("/") || is_operator("//") || is_operator("%")) {
    std::string name = take().text;
    value = binary(std::move(value), std::move(name), parse_power());
  }
  return value;
}

ExpressionPtr ExpressionParser::parse_power() {
  ExpressionPtr value = parse_unary(true);
  while (is_operator("**")) {
    take();
    value = binary(std::move(value), "**", parse_unary(true));
  }
  return value;
}

ExpressionPtr ExpressionParser::parse_unary(bool with_filters) {
  const Nesting nesting(*this);
  ExpressionPtr value;
  if (is_operator("-") || is_operator("+")) {
    value = node(Kind::kUnary, take().text);
    adopt(*value, parse_unary(false));
  } else {
    value = parse_primary();
  }
  value = parse_postfix(std::move(value));
  return with_filters ? parse_filters(std::move(value)) : std::move(value);
}

ExpressionPtr ExpressionParser::parse_primary() {
  switch (token().kind) {
    case Token::Kind::kName: return parse_named_constant();
    case Token::Kind::kInteger:
    case Token::Kind::kFloat: return parse_number();
    case Token::Kind::kString: {
      auto made = node(Kind::kConstant);
      std::string text = take().text;
      while (is(Token::Kind::kString)) text += take().text;
      made->constant = Value(std::move(text));
      return made;
    }
    case Token::Kind::kOperator: return parse_bracket();
    default: error("an expression is missing");
  }
}

ExpressionPtr ExpressionParser::parse_named_constant() {
  const std::string name = token().text;
  auto made = node(Kind::kConstant);
  if (name == "true" || name == "True") {
    made->constant = Value(true);
  } else if (name == "false" || name == "False") {
    made->constant = Value(false);
  } else if (name == "none" || name == "None") {
    made->constant = Value(Value::None{});
  } else {
    constexpr std::array<std::string_view, 8> kReserved = {"if", "else", "elif", "in", "and", "or", "not", "is"};
    if (std::find(kReserved.begin(), kReserved.end(), name) != kReserved.end()) error("an unexpected '" + name + "'");
    made = node(Kind::kName, name);
  }
  take();
  return made;
}

ExpressionPtr ExpressionParser::parse_number() {
  auto made = node(Kind::kConstant);
  const std::string& text = token().text;
  const char *begin = text.data(), *end = begin + text.size();
  if (is(Token::Kind::kInteger)) {
    int64_t number = 0;
    if (std::from_chars(begin, end, number).ec != std::errc()) error("a number that is too large");
    made->constant = Value(number);
  } else {
    double number = 0;
    if (std::from_chars(begin, end, number).ec != std::errc()) error("a number that is too large");
    made->constant = Value(number);
  }
  take();
  return made;
}

ExpressionPtr ExpressionParser::parse_bracket() {
  if (is_operator("[")) return parse_list();
  if (is_operator("{")) return parse_dict();
  if (!is_operator("(")) error("an unexpected '" + token().text + "'");
  take();
  if (is_operator(")")) {
    take();
    return node(Kind::kTuple);
  }
  ExpressionPtr value = parse_tuple();
  expect_operator(")");
  return value;
}

ExpressionPtr ExpressionParser::parse_tuple() {
  ExpressionPtr first = parse_expression();
  if (!is_operator(",")) return first;
  auto made = node(Kind::kTuple);
  adopt(*made, std::move(first));
  while (take_operator(",")) {
    if (is_operator(")") || is(Token::Kind::kTagEnd) || is(Token::Kind::kOutputEnd)) break;
    adopt(*made, parse_expression());
  }
  return made;
}

ExpressionPtr ExpressionParser::parse_list() {
  auto made = node(Kind::kList);
  take();
  while (!is_operator("]")) {
    adopt(*made, parse_expression());
    if (!take_operator(",")) break;
  }
  expect_operator("]");
  return made;
}

ExpressionPtr ExpressionParser::parse_dict() {
  auto made = node(Kind::kDict);
  take();
  while (!is_operator("}")) {
    adopt(*made, parse_expression());
    expect_operator(":");
    adopt(*made, parse_expression());
    if (!take_operator(",")) break;
  }
  expect_operator("}");
  return made;
}

ExpressionPtr ExpressionParser::parse_postfix(ExpressionPtr value) {
  while (true) {
    if (is_operator("[")) {
      value = parse_subscript(std::move(value));
    } else if (is_operator("(")) {
      auto made = node(Kind::kCall);
      adopt(*made, std::move(value));
      adopt_arguments(*made);
      value = std::move(made);
    } else if (take_operator(".")) {
      const bool element = is(Token::Kind::kInteger);
      auto made = element ? node(Kind::kItem) : node(Kind::kAttribute, expect_name());
      adopt(*made, std::move(value));
      if (element) adopt(*made, parse_number());
      value = std::move(made);
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::parse_subscript(ExpressionPtr value) {
  auto made = node(Kind::kItem);
  take();
  adopt(*made, std::move(value));
  const auto part = [&]() -> ExpressionPtr { return is_operator(":") || is_operator("]") ? nullptr : parse_tuple(); };
  adopt(*made, part());
  if (is_operator(":")) made->kind = Kind::kSlice;
  while (take_operator(":")) adopt(*made, part());
  if (made->parts.size() > 4 || (made->kind == Kind::kItem && !made->parts[1])) error("a subscript that is none");
  if (made->kind == Kind::kSlice) made->parts.resize(4);
  expect_operator("]");
  return made;
}

std::vector<Argument> ExpressionParser::parse_arguments() {
  std::vector<Argument> arguments;
  expect_operator("(");
  while (!is_operator(")")) {
    Argument argument;
    const bool named =
        is(Token::Kind::kName) && tokens_[at_ + 1].kind == Token::Kind::kOperator && tokens_[at_ + 1].text == "=";
    if (named) {
      argument.name = take().text;
      take();
    } else if (!arguments.empty() && !arguments.back().name.empty()) {
      error("an argument by position after one by name");
    }
    argument.value = parse_expression();
    arguments.push_back(std::move(argument));
    if (!take_operator(",")) break;
  }
  expect_operator(")");
  return arguments;
}

// Filters, tests and calls, in any order.
ExpressionPtr ExpressionParser::parse_filters(ExpressionPtr value) {
  bool first = !value;  // a block begins with the name of a filter
  while (true) {
    if (first || is_operator("|")) {
      if (!first) take();
      first = false;
      auto made = node(Kind::kFilter, expect_name());
      adopt(*made, std::move(value));
      if (is_operator("(")) adopt_arguments(*made);
      value = std::move(made);
    } else if (is_name("is")) {
      value = parse_test(std::move(value));
    } else if (is_operator("(")) {
      auto made = node(Kind::kCall);
      adopt(*made, std::move(value));
      adopt_arguments(*made);
      value = std::move(made);
    } else {
      return value;
    }
  }
}

// `is divisibleby(3)`, or with one bare argument `is divisibleby 3`.
ExpressionPtr ExpressionParser::parse_test(ExpressionPtr value) {
  take();
  const bool negated = take_name("not");
  const std::string name = is(Token::Kind::kOperator) ? take().text : expect_name();
  auto made = node(Kind::kTest, name);
  adopt(*made, std::move(value));
  constexpr std::array<std::string_view, 7> kNoArgument = {"else", "or", "and", "is", "if", "in", "not"};
  const bool word =
      is(Token::Kind::kName) && std::find(kNoArgument.begin(), kNoArgument.end(), token().text) == kNoArgument.end();
  if (is_operator("(")) {
    adopt_arguments(*made);
  } else if (word || is(Token::Kind::kString) || is(Token::Kind::kInteger) || is(Token::Kind::kFloat) ||
             is_operator("[") || is_operator("{")) {
    ExpressionPtr argument = parse_postfix(parse_primary());
    made->depth = std::max(made->depth, argument->depth + 1);
    made->arguments.push_back({"", std::move(argument)});
  }
  if (is_name("is")) error("two tests in a row");
  if (!negated) return made;
  auto opposite = node(Kind::kUnary, "not");
  adopt(*opposite, std::move(made));
  return opposite;
}

}  // namespace choir::text::jinja
