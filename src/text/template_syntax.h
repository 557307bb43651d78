// A chat template as a tree.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/template_value.h"

namespace choir::text::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Argument {
  std::string name;  // empty: by position
  ExpressionPtr value;
};

struct Expression {
  enum class Kind {
    kConstant,   // constant
    kName,       // name
    kList,       // parts
    kTuple,      // parts
    kDict,       // parts: key, value, key, value
    kUnary,      // name: "-", "+", "not"; parts[0]
    kBinary,     // name: the operator; parts[0], parts[1]
    kCompare,    // parts[0], then names[i] and parts[i + 1]
    kCondition,  // parts[0] if parts[1] else parts[2], which may be null
    kAttribute,  // parts[0].name
    kItem,       // parts[0][parts[1]]
    kSlice,      // parts[0][parts[1]:parts[2]:parts[3]], each of the last three may be null
    kCall,       // parts[0](arguments)
    kFilter,     // parts[0] | name(arguments); a null part is the text of a filter block
    kTest,       // parts[0] is name(arguments)
  };

  Kind kind;
  int line;
  int depth = 1;  // of the tree, arguments included
  std::string name;
  Value constant;
  std::vector<ExpressionPtr> parts;
  std::vector<std::string> names;
  std::vector<Argument> arguments;
};

struct Statement;
using Block = std::vector<Statement>;

struct Parameter {
  std::string name;
  ExpressionPtr fallback;  // may be null
};

struct Statement {
  enum class Kind {
    kText,    // text
    kOutput,  // value
    kIf,      // value, body, otherwise
    kFor,     // targets in value if condition: body; otherwise when there is nothing to go through
    kBreak,
    kContinue,
    kSet,       // targets = value
    kSetBlock,  // targets[0] = what body writes, through the filters of value (which may be null)
    kSetField,  // targets[0].text = value
    kMacro,     // text(parameters): body
    kCall,      // value is a call, whose caller(parameters) writes body
    kFilter,    // what body writes, through the filters of value
    kScope,     // body
  };

  Kind kind;
  int line;
  std::string text;
  ExpressionPtr value, condition;
  std::vector<std::string> targets;
  std::vector<Parameter> parameters;
  Block body, otherwise;
};

// Throws Error (input) that names `where`, the line and what is wrong or not supported. The source is UTF-8.
Block parse_template(std::string_view source, const std::string& where);

}  // namespace choir::text::jinja
