// Expressions of a template, read from its tokens.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/template_lexer.h"
#include "text/template_syntax.h"

namespace choir::text::jinja {

// A place in the tokens of a template, and the reading of expressions there.
class ExpressionParser {
 public:
  ExpressionParser(std::vector<Token> tokens, const std::string& where) : tokens_(std::move(tokens)), where_(where) {}

  ExpressionPtr parse_expression();                  // with or without a condition
  ExpressionPtr parse_or();                          // without one: what `for ... in` goes through
  ExpressionPtr parse_tuple();                       // a, b or a single expression
  ExpressionPtr parse_filters(ExpressionPtr value);  // value may be null: the filters of a block
  std::vector<Argument> parse_arguments();           // from "(" to ")"

  const Token& token() const { return tokens_[at_]; }
  bool is(Token::Kind kind) const { return token().kind == kind; }
  bool is_operator(std::string_view text) const { return is(Token::Kind::kOperator) && token().text == text; }
  bool is_name(std::string_view text) const { return is(Token::Kind::kName) && token().text == text; }
  Token take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool take_operator(std::string_view text);
  bool take_name(std::string_view text);
  void expect_operator(std::string_view text);
  std::string expect_name();
  void expect(Token::Kind kind, const char* what);
  [[noreturn]] void error(const std::string& what) const { template_error(what, where_, token().line); }

  // Counts how deep the reader is in itself; files could make it overflow the stack.
  class Nesting {
   public:
    explicit Nesting(ExpressionParser& parser);
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;
    ~Nesting() { --depth_; }

   private:
    int& depth_;
  };

 private:
  ExpressionPtr node(Expression::Kind kind, std::string name = "") const;
  void adopt(Expression& parent, ExpressionPtr part) const;
  void adopt_arguments(Expression& parent);
  ExpressionPtr binary(ExpressionPtr left, std::string name, ExpressionPtr right) const;
  ExpressionPtr parse_and();
  ExpressionPtr parse_not();
  ExpressionPtr parse_comparison();
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concatenation();
  ExpressionPtr parse_product();
  ExpressionPtr parse_power();
  ExpressionPtr parse_unary(bool with_filters);
  ExpressionPtr parse_primary();
  ExpressionPtr parse_named_constant();
  ExpressionPtr parse_number();
  ExpressionPtr parse_bracket();
  ExpressionPtr parse_list();
  ExpressionPtr parse_dict();
  ExpressionPtr parse_postfix(ExpressionPtr value);
  ExpressionPtr parse_subscript(ExpressionPtr value);
  ExpressionPtr parse_test(ExpressionPtr value);
  std::string comparison_here();

  std::vector<Token> tokens_;
  const std::string& where_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace choir::text::jinja
