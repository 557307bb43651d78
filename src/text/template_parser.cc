// Statements of a template.
#include <algorithm>

#include "base/error.h"
#include "text/template_expressions.h"
#include "text/template_syntax.h"
#include "text/utf8.h"

namespace choir::text::jinja {
namespace {

using Kind = Statement::Kind;

class Parser {
 public:
  Parser(std::vector<Token> tokens, const std::string& where) : in_(std::move(tokens), where) {}

  Block parse_all() {
    Block block = parse_block();
    if (!in_.is(Token::Kind::kEnd)) in_.error("an unexpected {% " + in_.token().text + " %}");
    return block;
  }

 private:
  // Up to a tag that is no statement by itself, whose name is then the current token.
  Block parse_block() {
    const ExpressionParser::Nesting nesting(in_);
    Block block;
    while (!in_.is(Token::Kind::kEnd)) {
      if (in_.is(Token::Kind::kText)) {
        block.push_back(statement(Kind::kText));
        block.back().text = in_.take().text;
      } else if (in_.is(Token::Kind::kOutputBegin)) {
        in_.take();
        block.push_back(statement(Kind::kOutput));
        block.back().value = in_.parse_tuple();
        in_.expect(Token::Kind::kOutputEnd, "}}");
      } else {
        in_.take();
        if (!parse_tag(block)) break;
      }
    }
    return block;
  }

  Statement statement(Kind kind) const {
    Statement made{};
    made.kind = kind;
    made.line = in_.token().line;
    return made;
  }

  void end_tag() { in_.expect(Token::Kind::kTagEnd, "%}"); }

  void end_block(const char* name) {
    if (!in_.take_name(name)) in_.error(std::string("{% ") + name + " %} is missing");
    if (in_.is(Token::Kind::kName)) in_.take();  // the name of the macro may stand again
    end_tag();
  }

  // False when the tag ends or continues another.
  bool parse_tag(Block& block) {
    const std::string name = in_.is(Token::Kind::kName) ? in_.token().text : "";
    const bool known = name == "if" || name == "for" || name == "set" || name == "macro" || name == "call" ||
                       name == "filter" || name == "break" || name == "continue" || name == "generation" ||
                       name == "with" || name == "do";
    if (!known) {
      const bool follows = name.starts_with("end") || name == "elif" || name == "else";
      if (!follows) in_.error("the statement '" + in_.token().text + "' is not supported");
      return false;
    }
    in_.take();
    if (name == "if") block.push_back(parse_if());
    if (name == "for") block.push_back(parse_for());
    if (name == "set") block.push_back(parse_set());
    if (name == "macro") block.push_back(parse_macro());
    if (name == "call") block.push_back(parse_call());
    if (name == "filter") block.push_back(parse_filter());
    if (name == "break" || name == "continue") block.push_back(parse_jump(name == "break"));
    if (name == "generation") block.push_back(parse_generation());
    if (name == "with") block.push_back(parse_with());
    if (name == "do") block.push_back(parse_do());
    return true;
  }

  // elif is an if inside the otherwise.
  Statement parse_if() {
    Statement made = statement(Kind::kIf);
    made.value = in_.parse_expression();
    end_tag();
    made.body = parse_block();
    if (in_.take_name("elif")) {
      const ExpressionParser::Nesting nesting(in_);
      made.otherwise.push_back(parse_if());
      return made;
    }
    if (in_.take_name("else")) {
      end_tag();
      made.otherwise = parse_block();
    }
    end_block("endif");
    return made;
  }

  std::vector<std::string> parse_targets() {
    std::vector<std::string> targets;
    const bool bracket = in_.take_operator("(");
    do targets.push_back(in_.expect_name());
    while (in_.take_operator(",") && in_.is(Token::Kind::kName) && !in_.is_name("in"));
    if (bracket) in_.expect_operator(")");
    return targets;
  }

  Statement parse_for() {
    Statement made = statement(Kind::kFor);
    made.targets = parse_targets();
    if (!in_.take_name("in")) in_.error("'in' is missing");
    made.value = in_.parse_or();
    if (in_.take_name("if")) made.condition = in_.parse_expression();
    if (in_.is_name("recursive")) in_.error("'recursive' is not supported");
    end_tag();
    ++loops_;
    made.body = parse_block();
    --loops_;
    if (in_.take_name("else")) {
      end_tag();
      made.otherwise = parse_block();
    }
    end_block("endfor");
    return made;
  }

  Statement parse_jump(bool leave) {
    if (loops_ == 0) in_.error(std::string(leave ? "break" : "continue") + " outside a loop");
    Statement made = statement(leave ? Kind::kBreak : Kind::kContinue);
    end_tag();
    return made;
  }

  Statement parse_set() {
    Statement made = statement(Kind::kSet);
    made.targets = parse_targets();
    if (in_.take_operator(".")) {
      made.kind = Kind::kSetField;
      made.text = in_.expect_name();
    }
    if (in_.take_operator("=")) {
      made.value = in_.parse_tuple();
      end_tag();
      return made;
    }
    if (made.kind == Kind::kSetField || made.targets.size() != 1) in_.error("'=' is missing");
    made.kind = Kind::kSetBlock;
    if (in_.take_operator("|")) made.value = in_.parse_filters(nullptr);
    end_tag();
    made.body = parse_block();
    end_block("endset");
    return made;
  }

  std::vector<Parameter> parse_parameters() {
    std::vector<Parameter> parameters;
    in_.expect_operator("(");
    while (!in_.is_operator(")")) {
      Parameter parameter{in_.expect_name(), nullptr};
      if (in_.take_operator("=")) parameter.fallback = in_.parse_expression();
      parameters.push_back(std::move(parameter));
      if (!in_.take_operator(",")) break;
    }
    in_.expect_operator(")");
    return parameters;
  }

  // break and continue do not leave a macro.
  Block parse_own_block() {
    const int loops = std::exchange(loops_, 0);
    Block block = parse_block();
    loops_ = loops;
    return block;
  }

  Statement parse_macro() {
    Statement made = statement(Kind::kMacro);
    made.text = in_.expect_name();
    made.parameters = parse_parameters();
    end_tag();
    made.body = parse_own_block();
    end_block("endmacro");
    return made;
  }

  Statement parse_call() {
    Statement made = statement(Kind::kCall);
    if (in_.is_operator("(")) made.parameters = parse_parameters();
    made.value = in_.parse_expression();
    if (made.value->kind != Expression::Kind::kCall) in_.error("a call is missing");
    end_tag();
    made.body = parse_own_block();
    end_block("endcall");
    return made;
  }

  Statement parse_filter() {
    Statement made = statement(Kind::kFilter);
    made.value = in_.parse_filters(nullptr);
    end_tag();
    made.body = parse_block();
    end_block("endfilter");
    return made;
  }

  // Marks what the assistant said, which rendering does not need.
  Statement parse_generation() {
    Statement made = statement(Kind::kScope);
    end_tag();
    made.body = parse_block();
    end_block("endgeneration");
    return made;
  }

  Statement parse_with() {
    Statement made = statement(Kind::kScope);
    while (in_.is(Token::Kind::kName)) {
      Statement set = statement(Kind::kSet);
      set.targets = {in_.expect_name()};
      in_.expect_operator("=");
      set.value = in_.parse_expression();
      made.body.push_back(std::move(set));
      if (!in_.take_operator(",")) break;
    }
    end_tag();
    Block body = parse_block();
    std::move(body.begin(), body.end(), std::back_inserter(made.body));
    end_block("endwith");
    return made;
  }

  // An expression for its effects, of which templates have none but refusals.
  Statement parse_do() {
    Statement made = statement(Kind::kSet);
    made.value = in_.parse_expression();
    end_tag();
    return made;
  }

  ExpressionParser in_;
  int loops_ = 0;
};

}  // namespace

Block parse_template(std::string_view source, const std::string& where) {
  if (valid_utf8_prefix(source) != source.size())
    base::input_error("the chat template is not UTF-8", where, "save it as UTF-8");
  return Parser(split_template(source, where), where).parse_all();
}

}  // namespace choir::text::jinja
