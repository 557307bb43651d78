#include "text/template_run.h"

#include <algorithm>
#include <ctime>
#include <utility>

namespace choir::text::jinja {
namespace {

// Of statements, expressions and macros in one another; each needs a piece of the stack.
constexpr int kMostDepth = 600;
constexpr int64_t kMostRange = 100'000;  // as Jinja's sandbox has it

// What {% set name.field = value %} may change.
class Namespace final : public Object {
 public:
  explicit Namespace(Dict fields) : fields_(std::move(fields)) {}

  Value attribute(std::string_view name) const override {
    const Value* found = fields_.find(name);
    return found ? *found : Value::undefined(std::string(name));
  }
  bool set(const std::string& name, const Value& value) override {
    fields_.set(Value(name), value);
    return true;
  }
  void clear() { fields_ = {}; }

 private:
  Dict fields_;
};

// The name `loop` inside a loop.
class Loop final : public Object {
 public:
  Loop(std::shared_ptr<const List> all, size_t index, std::shared_ptr<Value> changing)
      : all_(std::move(all)), index_(index), changing_(std::move(changing)) {}

  Value attribute(std::string_view name) const override {
    const auto index = static_cast<int64_t>(index_), size = static_cast<int64_t>(all_->size());
    if (name == "index") return index + 1;
    if (name == "index0") return index;
    if (name == "revindex") return size - index;
    if (name == "revindex0") return size - index - 1;
    if (name == "first") return index == 0;
    if (name == "last") return index + 1 == size;
    if (name == "length") return size;
    if (name == "depth") return int64_t{1};  // of recursive loops, which are not supported
    if (name == "depth0") return int64_t{0};
    if (name == "previtem") return index > 0 ? (*all_)[index_ - 1] : Value::undefined("previtem");
    if (name == "nextitem") return index + 1 < size ? (*all_)[index_ + 1] : Value::undefined("nextitem");
    if (name == "cycle") return cycle();
    if (name == "changed") return changed();
    return Value::undefined(std::string(name));
  }

 private:
  Value cycle() const {
    return Function([index = index_](const Arguments& a) -> Value {
      if (a.positional.empty()) fail("nothing to cycle through");
      return a.positional[index % a.positional.size()];
    });
  }

  Value changed() const {
    return Function([last = changing_](const Arguments& a) -> Value {
      const Value now(a.positional);
      const bool differs = !(*last == now);
      *last = now;
      return differs;
    });
  }

  std::shared_ptr<const List> all_;
  size_t index_;
  std::shared_ptr<Value> changing_;
};

Value make_range(const Arguments& arguments) {
  const size_t count = arguments.positional.size();
  if (count == 0 || count > 3) fail("range wants one to three numbers");
  const int64_t begin = count == 1 ? 0 : arguments.positional[0].as_int();
  const int64_t end = arguments.positional[count == 1 ? 0 : 1].as_int();
  const int64_t step = count == 3 ? arguments.positional[2].as_int() : 1;
  if (step == 0) fail("a range with the step 0");
  List numbers;
  for (int64_t i = begin; step > 0 ? i < end : i > end;) {
    if (static_cast<int64_t>(numbers.size()) == kMostRange) fail("a range of more than 100000 numbers");
    numbers.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return numbers;
}

Value make_dict(const Arguments& arguments) {
  Dict dict;
  if (!arguments.positional.empty()) dict = arguments.positional[0].as_dict();
  for (const auto& [name, value] : arguments.named) dict.set(Value(name), value);
  return dict;
}

Value format_now(const Arguments& arguments) {
  const std::string format = arguments.get(0, "format").as_string();
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  localtime_r(&now, &parts);
  char text[256];
  const size_t size = std::strftime(text, sizeof(text), format.c_str(), &parts);
  return std::string(text, size);
}

Value refuse(const Arguments& arguments) { throw Fault{arguments.get(0, "message").text(), true}; }

}  // namespace

class Runner::Depth {
 public:
  explicit Depth(int& depth) : depth_(depth) {
    if (depth_ >= kMostDepth) fail("calls are nested too deeply");
    ++depth_;
  }
  Depth(const Depth&) = delete;
  Depth& operator=(const Depth&) = delete;
  ~Depth() { --depth_; }

 private:
  int& depth_;
};

Runner::Runner(const Dict& variables) : scope_(std::make_shared<Scope>()) {
  define_globals(*scope_);
  for (const auto& [name, value] : variables.entries) scope_->names[name.as_string()] = value;
  scope_ = inner_scope();
}

Runner::~Runner() {
  for (const auto& each : namespaces_) static_cast<Namespace&>(*each).clear();
  for (const ScopePtr& home : homes_) home->names.clear();
}

void Runner::define_globals(Scope& scope) {
  scope.names["range"] = Value(Function(make_range));
  scope.names["dict"] = Value(Function(make_dict));
  scope.names["strftime_now"] = Value(Function(format_now));
  scope.names["raise_exception"] = Value(Function(refuse));
  scope.names["namespace"] = Value(Function([this](const Arguments& arguments) -> Value {
    auto made = std::make_shared<Namespace>(make_dict(arguments).as_dict());
    namespaces_.push_back(made);
    meter_.charge(16);
    return Value(std::shared_ptr<Object>(std::move(made)));
  }));
}

std::string Runner::run(const Block& program) {
  std::string text;
  out_ = &text;
  run_block(program);
  return text;
}

ScopePtr Runner::inner_scope() const {
  auto scope = std::make_shared<Scope>();
  scope->outer = scope_;
  return scope;
}

void Runner::write(std::string_view text) {
  meter_.charge(static_cast<int64_t>(text.size() / 64));
  append_text(*out_, text);
}

Runner::After Runner::run_block(const Block& block) {
  const Depth depth(depth_);
  for (const Statement& statement : block) {
    line_ = statement.line;
    meter_.charge(1);
    const After after = run_statement(statement);
    if (after != After::kGoOn) return after;
  }
  return After::kGoOn;
}

Runner::After Runner::run_statement(const Statement& statement) {
  using Kind = Statement::Kind;
  switch (statement.kind) {
    case Kind::kText: write(statement.text); break;
    case Kind::kOutput: write(evaluate(*statement.value).text()); break;
    case Kind::kIf: return run_if(statement);
    case Kind::kFor: return run_for(statement);
    case Kind::kBreak: return After::kBreak;
    case Kind::kContinue: return After::kContinue;
    case Kind::kSet:
    case Kind::kSetField: run_set(statement); break;
    case Kind::kSetBlock:
    case Kind::kFilter: run_captured(statement); break;
    case Kind::kMacro: run_macro(statement); break;
    case Kind::kCall: run_call(statement); break;
    case Kind::kScope: {
      const ScopePtr outside = std::exchange(scope_, inner_scope());
      const After after = run_block(statement.body);
      scope_ = outside;
      return after;
    }
  }
  return After::kGoOn;
}

Runner::After Runner::run_if(const Statement& statement) {
  return run_block(evaluate(*statement.value).truth() ? statement.body : statement.otherwise);
}

// The condition sees the element and not the loop, whose length it decides.
Runner::After Runner::run_for(const Statement& statement) {
  const ScopePtr outside = scope_;
  auto all = std::make_shared<List>();
  for (Value& item : evaluate(*statement.value).elements()) {
    meter_.charge(1);
    if (statement.condition) {
      scope_ = std::make_shared<Scope>(Scope{{}, outside});
      assign(statement.targets, item, *scope_);
      const bool wanted = evaluate(*statement.condition).truth();
      scope_ = outside;
      if (!wanted) continue;
    }
    all->push_back(std::move(item));
  }
  const auto changing = std::make_shared<Value>();
  for (size_t i = 0; i < all->size(); ++i) {
    scope_ = std::make_shared<Scope>(Scope{{}, outside});
    scope_->names["loop"] = Value(std::shared_ptr<Object>(std::make_shared<Loop>(all, i, changing)));
    assign(statement.targets, (*all)[i], *scope_);
    const After after = run_block(statement.body);
    scope_ = outside;
    if (after == After::kBreak) break;
  }
  return all->empty() ? run_block(statement.otherwise) : After::kGoOn;
}

void Runner::assign(const std::vector<std::string>& targets, const Value& value, Scope& scope) const {
  if (targets.size() == 1) {
    scope.names[targets[0]] = value;
    return;
  }
  const List parts = value.elements();
  if (parts.size() != targets.size())
    fail(std::to_string(parts.size()) + " values for " + std::to_string(targets.size()) + " names");
  for (size_t i = 0; i < parts.size(); ++i) scope.names[targets[i]] = parts[i];
}

void Runner::run_set(const Statement& statement) {
  const Value value = evaluate(*statement.value);
  if (statement.targets.empty()) return;
  if (statement.kind == Statement::Kind::kSet) return assign(statement.targets, value, *scope_);
  const Value target = look_up(statement.targets[0]);
  if (!target.is_object() || !target.as_object().set(statement.text, value))
    fail("'" + statement.targets[0] + "' is no namespace, so ." + statement.text + " cannot be set");
}

// {% set name %} and {% filter %}.
void Runner::run_captured(const Statement& statement) {
  Value text(captured(statement.body, inner_scope()));
  if (statement.value) text = evaluate_filters(*statement.value, text);
  if (statement.kind == Statement::Kind::kFilter)
    write(text.text());
  else
    scope_->names[statement.targets[0]] = text;
}

std::string Runner::captured(const Block& block, const ScopePtr& scope) {
  std::string text;
  std::string* const out = std::exchange(out_, &text);
  const ScopePtr outside = std::exchange(scope_, scope);
  run_block(block);
  scope_ = outside;
  out_ = out;
  return text;
}

Function Runner::make_macro(const Statement& statement) {
  homes_.push_back(scope_);
  return [this, &statement, home = scope_](const Arguments& arguments) -> Value {
    return call_macro(statement, home, arguments);
  };
}

void Runner::run_macro(const Statement& statement) { scope_->names[statement.text] = Value(make_macro(statement)); }

std::string Runner::call_macro(const Statement& statement, const ScopePtr& home, const Arguments& arguments) {
  const Depth depth(depth_);
  const auto scope = std::make_shared<Scope>(Scope{{}, home});
  if (arguments.positional.size() > statement.parameters.size())
    fail("'" + statement.text + "' takes at most " + std::to_string(statement.parameters.size()) + " arguments");
  for (const auto& [name, value] : arguments.named) {
    const bool known = name == "caller" || std::any_of(statement.parameters.begin(), statement.parameters.end(),
                                                       [&](const Parameter& p) { return p.name == name; });
    if (!known) fail("'" + statement.text + "' takes no argument '" + name + "'");
    scope->names[name] = value;
  }
  const ScopePtr outside = std::exchange(scope_, scope);
  for (size_t i = 0; i < statement.parameters.size(); ++i) {
    const Parameter& parameter = statement.parameters[i];
    if (i < arguments.positional.size())
      scope->names[parameter.name] = arguments.positional[i];
    else if (!scope->names.contains(parameter.name))
      scope->names[parameter.name] =
          parameter.fallback ? evaluate(*parameter.fallback) : Value::undefined(parameter.name);
  }
  scope_ = outside;
  return captured(statement.body, scope);
}

// The macro finds the body of the block under the name `caller`.
void Runner::run_call(const Statement& statement) {
  const Expression& made = *statement.value;
  const Value function = evaluate(*made.parts[0]);
  Arguments arguments = evaluate_arguments(made);
  arguments.named.emplace_back("caller", Value(make_macro(statement)));
  write(call(function, arguments).text());
}

Value Runner::evaluate(const Expression& expression) {
  const Depth depth(depth_);
  meter_.charge(1);
  line_ = expression.line;
  Value value = evaluate_kind(expression);
  line_ = expression.line;
  return value;
}

Value Runner::evaluate_kind(const Expression& expression) {
  using Kind = Expression::Kind;
  switch (expression.kind) {
    case Kind::kConstant: return expression.constant;
    case Kind::kName: return look_up(expression.name);
    case Kind::kList: return evaluate_all(expression);
    case Kind::kTuple: return {evaluate_all(expression), true};
    case Kind::kDict: return evaluate_dict(expression);
    case Kind::kUnary: return evaluate_unary(expression);
    case Kind::kBinary: return evaluate_binary(expression);
    case Kind::kCompare: return evaluate_comparison(expression);
    case Kind::kCondition:
      if (evaluate(*expression.parts[1]).truth()) return evaluate(*expression.parts[0]);
      return expression.parts[2] ? evaluate(*expression.parts[2]) : Value::undefined("the other case");
    case Kind::kAttribute: return attribute_of(evaluate(*expression.parts[0]), expression.name);
    case Kind::kItem: {
      const Value value = evaluate(*expression.parts[0]);
      return item_of(value, evaluate(*expression.parts[1]));
    }
    case Kind::kSlice: return evaluate_slice(expression);
    case Kind::kCall: {
      const Value function = evaluate(*expression.parts[0]);
      return call(function, evaluate_arguments(expression));
    }
    case Kind::kFilter: return evaluate_filters(expression, {});
    case Kind::kTest: {
      const Value value = evaluate(*expression.parts[0]);
      return apply_test(expression.name, value, evaluate_arguments(expression));
    }
  }
  return {};
}

Value Runner::look_up(const std::string& name) const {
  for (const Scope* scope = scope_.get(); scope; scope = scope->outer.get())
    if (const auto found = scope->names.find(name); found != scope->names.end()) return found->second;
  return Value::undefined(name);
}

List Runner::evaluate_all(const Expression& expression) {
  List list;
  for (const ExpressionPtr& part : expression.parts) list.push_back(evaluate(*part));
  return list;
}

Value Runner::evaluate_dict(const Expression& expression) {
  Dict dict;
  for (size_t i = 0; i < expression.parts.size(); i += 2) {
    const Value key = evaluate(*expression.parts[i]);
    dict.set(key, evaluate(*expression.parts[i + 1]));
  }
  return dict;
}

Value Runner::evaluate_unary(const Expression& expression) {
  const Value value = evaluate(*expression.parts[0]);
  if (expression.name == "not") return !value.truth();
  return calculate(expression.name, Value(int64_t{0}), value);
}

Value Runner::evaluate_binary(const Expression& expression) {
  const Value left = evaluate(*expression.parts[0]);
  if (expression.name == "and") return left.truth() ? evaluate(*expression.parts[1]) : left;
  if (expression.name == "or") return left.truth() ? left : evaluate(*expression.parts[1]);
  const Value right = evaluate(*expression.parts[1]);
  Value result;
  if (expression.name == "~") {
    std::string text = left.text();
    append_text(text, right.text());
    result = Value(std::move(text));
  } else {
    result = expression.name == "+" ? add(left, right) : calculate(expression.name, left, right);
  }
  meter_.charge(result.weight() / 4);
  return result;
}

bool Runner::evaluate_comparison(const Expression& expression) {
  Value left = evaluate(*expression.parts[0]);
  for (size_t i = 0; i < expression.names.size(); ++i) {
    const std::string& name = expression.names[i];
    Value right = evaluate(*expression.parts[i + 1]);
    meter_.charge(std::min(left.weight(), right.weight()) / 4 + (name.ends_with("in") ? right.weight() / 4 : 0));
    bool holds = false;
    if (name == "==") holds = left == right;
    if (name == "!=") holds = !(left == right);
    if (name == "<") holds = less(left, right);
    if (name == ">") holds = less(right, left);
    if (name == "<=") holds = !less(right, left);
    if (name == ">=") holds = !less(left, right);
    if (name.ends_with("in")) holds = contains(right, left) == (name == "in");
    if (!holds) return false;
    left = std::move(right);
  }
  return true;
}

Value Runner::evaluate_slice(const Expression& expression) {
  Value parts[4];
  for (size_t i = 0; i < 4; ++i)
    if (expression.parts[i]) parts[i] = evaluate(*expression.parts[i]);
  meter_.charge(parts[0].weight() / 16);
  return slice(parts[0], parts[1], parts[2], parts[3]);
}

// `value` where the chain of filters begins with none: the text of a block.
Value Runner::evaluate_filters(const Expression& expression, const Value& value) {
  Value input = value;
  if (const auto& part = expression.parts[0])
    input = part->kind == Expression::Kind::kFilter ? evaluate_filters(*part, value) : evaluate(*part);
  return apply_filter(expression.name, input, evaluate_arguments(expression), meter_);
}

Arguments Runner::evaluate_arguments(const Expression& expression) {
  Arguments arguments;
  for (const Argument& argument : expression.arguments) {
    Value value = evaluate(*argument.value);
    if (argument.name.empty())
      arguments.positional.push_back(std::move(value));
    else
      arguments.named.emplace_back(argument.name, std::move(value));
  }
  return arguments;
}

Value Runner::call(const Value& function, const Arguments& arguments) {
  if (function.is_undefined()) fail("'" + function.undefined_name() + "' is undefined and cannot be called");
  Value result = function.as_function()(arguments);
  meter_.charge(1 + result.weight() / 4);
  return result;
}

}  // namespace choir::text::jinja
