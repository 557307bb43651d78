// Runs the tree of a template.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "text/template_builtins.h"
#include "text/template_syntax.h"

namespace choir::text::jinja {

// Names and what they mean; what is not here is looked for outside.
struct Scope {
  std::map<std::string, Value, std::less<>> names;
  std::shared_ptr<Scope> outer;
};
using ScopePtr = std::shared_ptr<Scope>;

// One rendering. One thread.
class Runner {
 public:
  explicit Runner(const Dict& variables);
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;
  ~Runner();

  // Throws Fault; line() is then where.
  std::string run(const Block& program);
  int line() const { return line_; }

  Value evaluate(const Expression& expression);

 private:
  enum class After { kGoOn, kBreak, kContinue };
  class Depth;

  After run_block(const Block& block);
  After run_statement(const Statement& statement);
  After run_if(const Statement& statement);
  After run_for(const Statement& statement);
  void run_set(const Statement& statement);
  void run_macro(const Statement& statement);
  void run_call(const Statement& statement);
  void run_captured(const Statement& statement);
  void write(std::string_view text);
  std::string captured(const Block& block, const ScopePtr& scope);
  ScopePtr inner_scope() const;
  void assign(const std::vector<std::string>& targets, const Value& value, Scope& scope) const;
  Function make_macro(const Statement& statement);
  std::string call_macro(const Statement& statement, const ScopePtr& home, const Arguments& arguments);
  void define_globals(Scope& scope);

  Value evaluate_kind(const Expression& expression);
  Value look_up(const std::string& name) const;
  Value evaluate_dict(const Expression& expression);
  Value evaluate_unary(const Expression& expression);
  Value evaluate_binary(const Expression& expression);
  bool evaluate_comparison(const Expression& expression);
  Value evaluate_slice(const Expression& expression);
  Value evaluate_filters(const Expression& expression, const Value& value);
  List evaluate_all(const Expression& expression);
  Arguments evaluate_arguments(const Expression& expression);
  Value call(const Value& function, const Arguments& arguments);

  Meter meter_;
  ScopePtr scope_;
  std::string* out_ = nullptr;
  int line_ = 0, depth_ = 0;
  std::vector<std::shared_ptr<Object>> namespaces_;  // they and macros may hold each other
  std::vector<ScopePtr> homes_;                      // scopes that macros were defined in
};

// Operators on values, as Python has them.
Value add(const Value& a, const Value& b);
Value calculate(const std::string& name, const Value& a, const Value& b);
Value slice(const Value& value, const Value& begin, const Value& end, const Value& step);

}  // namespace choir::text::jinja
