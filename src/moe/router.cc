#include "moe/router.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "kernels/softmax.h"
#include "kernels/work.h"
#include "moe/parse.h"

namespace choir::moe {
namespace {

template <class Function>
void each_word(const Words& words, const Function& function) {
  std::visit(function, words.score);
  std::visit(function, words.propose);
  std::visit(function, words.admit);
  std::visit(function, words.weigh);
  for (const Balance& word : words.balance) std::visit(function, word);
}

template <class Word>
int state_of(const Word& word, int experts) {
  if constexpr (requires { word.state_size(experts); }) return word.state_size(experts);
  return 0;
}

template <class Word>
int sums_of(const Word& word, int experts) {
  if constexpr (requires { word.sums_size(experts); }) return word.sums_size(experts);
  return 0;
}

// Calls function(word, the place of its state, the place of its sums) for every word, in order.
template <class Function>
void each_place(const Words& words, int experts, const Function& function) {
  size_t state = 0, sums = 0;
  each_word(words, [&](const auto& word) {
    function(word, state, sums);
    state += static_cast<size_t>(state_of(word, experts));
    sums += static_cast<size_t>(sums_of(word, experts));
  });
}

template <class Word>
Context own(const Context& context, const Word& word, size_t place) {
  Context result = context;
  const auto size = static_cast<size_t>(state_of(word, context.experts));
  result.state = context.state.subspan(place, size);
  return result;
}

bool probability_is_read(const Words& words, Balancing balancing) {
  bool read = false;
  const auto ask = [&](const auto& word) {
    if constexpr (requires { word.reads_probability(); }) read = read || word.reads_probability();
  };
  std::visit(ask, words.propose);
  std::visit(ask, words.admit);
  std::visit(ask, words.weigh);
  for (const Balance& word : words.balance)
    if (balancing == Balancing::kOn) std::visit(ask, word);
  return read;
}

void fill_scores(const Words& words, const Context& context, Balancing balancing, Routing& routing) {
  const int rows = context.tokens.rows();
  routing.score.reserve(context.pairs());
  const Matrix<float> z = routing.score.matrix(rows, context.experts);
  std::visit([&](const auto& score) { score.forward(context, z); }, words.score);
  std::visit(
      [&](const auto& admit) {
        if constexpr (requires { admit.forbid(context, z); }) admit.forbid(context, z);
      },
      words.admit);
  routing.scale = 1;
  routing.inverse_length.clear();
  base::Frame frame(context.threads);
  std::visit(
      [&](const auto& score, const auto& admit) {
        if constexpr (requires { score.scale(1); }) routing.scale = score.scale(context.tokens.x.cols);
        if constexpr (requires { score.scale(context); }) routing.scale = score.scale(context);
        if constexpr (requires {
                        score.inverse_lengths(context, frame);
                        admit.reads_cosine(context.rule);
                      })
          if (admit.reads_cosine(context.rule)) {
            const std::span<const float> lengths = score.inverse_lengths(context, frame);
            routing.inverse_length.assign(lengths.begin(), lengths.end());
          }
      },
      words.score, words.admit);
  if (!probability_is_read(words, balancing)) return;
  routing.probability.reserve(context.pairs());
  routing.log_sum.reserve(static_cast<size_t>(rows));
  kernels::softmax_forward(z, routing.probability.matrix(rows, context.experts),
                           routing.log_sum.span().first(static_cast<size_t>(rows)), context.threads);
}

// What the proposals compare: the scores, or a copy that words have shifted.
Matrix<const float> selection_of(const Words& words, const Context& context, Routing& routing) {
  const Matrix<float> z = routing.score.matrix(context.tokens.rows(), context.experts);
  Matrix<float> key = z;
  const auto copy = [&] {
    if (key.data != z.data) return;
    routing.selection.reserve(context.pairs());
    key = routing.selection.matrix(z.rows, z.cols);
    each_token(context, [&](int t) { std::ranges::copy(z.row(t), key[t]); });
  };
  each_place(words, context.experts, [&](const auto& word, size_t state, size_t) {
    if constexpr (requires { word.select(context, z, key); })
      if (word.selects()) {
        copy();
        word.select(context, z, key);
      }
    if constexpr (requires { word.shift(context, key); })
      if (state_of(word, context.experts) > 0) {
        copy();
        word.shift(own(context, word, state), key);
      }
  });
  routing.selected = key.data != z.data;
  return key;
}

// Whether any word answers yes; `ask` gives the answer of one word, false where it has none.
template <class Ask>
bool any_word(const Words& words, const Ask& ask) {
  bool any = false;
  each_word(words, [&](const auto& word) { any = any || ask(word); });
  return any;
}

bool admits_all_or_skip(const Words& words) {
  return std::holds_alternative<AdmitAll>(words.admit) || std::holds_alternative<Skip>(words.admit);
}

bool is_top_2(const Words& words) {
  const auto* top_k = std::get_if<TopK>(&words.propose);
  return top_k && top_k->k == 2;
}

bool has_ortho(const Words& words) {
  return std::ranges::any_of(words.balance, [](const Balance& b) { return std::holds_alternative<Ortho>(b); });
}

// Whether the first tensor of the score has a row for each expert.
bool has_rows(const Router& router) {
  const auto three = router.tensors(3, 8), four = router.tensors(4, 8);
  return !three.empty() && three[0].rows == 3 && four[0].rows == 4;
}

bool has_noise(const Words& words) {
  return std::holds_alternative<NoisyScore>(words.score) && std::holds_alternative<TopK>(words.propose);
}

bool estimates_load(const Words& words) {
  return std::ranges::any_of(words.balance, [](const Balance& b) {
    const auto* cv2 = std::get_if<Cv2>(&b);
    return cv2 && cv2->of_load;
  });
}

bool divides_by_best(const Words& words) {
  return std::visit(
      [](const auto& word) {
        if constexpr (requires { word.over.k; }) return word.over.k > 0;
        return false;
      },
      words.weigh);
}

// Of words that stand beside each other.
void check_words(const Words& words, const Router& router) {
  if (const auto* skip = std::get_if<Skip>(&words.admit)) {
    if (skip->by == Skip::By::kRatio && !is_top_2(words))
      base::usage_error("skip(beta) is defined for top_k(2)", "router",
                        "use skip(tail=...), skip(ser=...), skip(count=...) or all with other top_k");
    if (!gain_of(words))
      base::usage_error("skip compares weights that are a softmax or a sigmoid", "router",
                        "weigh by chosen, softmax, sigmoid or sigmoid_norm");
    if (skip->amends.any() && !std::holds_alternative<TopK>(words.propose) &&
        !std::holds_alternative<Groups>(words.propose))
      base::usage_error("what is skipped can be amended where every token proposes as many experts", "router",
                        "that goes with top_k and groups");
  }
  if (divides_by_best(words) && !std::holds_alternative<TopK>(words.propose) &&
      !std::holds_alternative<Groups>(words.propose))
    base::usage_error("over=k divides by the k best experts of a token", "router", "it goes with top_k and groups");
  if (std::holds_alternative<SparseMixer>(words.weigh) &&
      !(is_top_2(words) && std::holds_alternative<AdmitAll>(words.admit)))
    base::usage_error("sparsemixer weighs two choices, both of them kept", "router", "it goes with top_k(2) > all");
  if (has_ortho(words) && !has_rows(router))
    base::usage_error("ortho(c) needs a gate with a row for each expert", "router", "the score has none");
  if (estimates_load(words) && !has_noise(words))
    base::usage_error("cv2(c, of=load) is defined for noisy > top_k(k)", "router", "leave of=load out");
  // The scores of masked experts are -infinity, and the next layer's gate would multiply them.
  if (router.masks() && router.residual())
    base::usage_error("mask does not work beside linear(residual)", "router", "prune the experts instead");
  const bool cosine = std::visit(
      [](const auto& score) {
        if constexpr (requires { score.is_cosine(); }) return score.is_cosine();
        return true;
      },
      words.score);
  const bool wanted = any_word(words, [](const auto& word) {
    if constexpr (requires { word.reads_cosine(Rule::kTraining); }) return word.reads_cosine(Rule::kTraining);
    return false;
  });
  if (wanted && !cosine)
    base::usage_error("the admission compares cosines, and the score is none", "router",
                      "compare with key=score or key=prob, and give the capacity as a factor");
}

// Those of projected_cosine are of P x, whose width is not the D of the bound.
bool has_cosines(const Words& words, const Routing& routing) {
  const auto is_scaled = [](const auto& score) {
    return requires { score.scale(1); };
  };
  return !routing.inverse_length.empty() || std::visit(is_scaled, words.score);
}

void check_sizes(const Context& context, int state, int choices) {
  const Tokens& tokens = context.tokens;
  const auto rows = static_cast<size_t>(tokens.rows());
  CHOIR_CHECK(context.state.size() == static_cast<size_t>(state), "the state is of another router");
  CHOIR_CHECK(tokens.id.empty() || tokens.id.size() == rows, "one id for each token");
  CHOIR_CHECK(tokens.padding.empty() || tokens.padding.size() == rows, "one mark of padding for each token");
  CHOIR_CHECK(tokens.nodes < 2 || tokens.node.size() == rows, "one node for each token");
  CHOIR_CHECK(static_cast<int64_t>(tokens.rows()) * choices <= INT32_MAX, "more proposals than an int can count");
}

// What a word must know of another.
Words introduced(Words words) {
  if (auto* skip = std::get_if<Skip>(&words.admit)) {
    skip->gain = gain_of(words).value_or(SubsetRule::Gain::kSoftmax);
    if (const auto* top_k = std::get_if<TopK>(&words.propose)) skip->amends.choices = top_k->k;
    if (const auto* groups = std::get_if<Groups>(&words.propose)) skip->amends.choices = groups->k;
  }
  if (const auto* groups = std::get_if<Groups>(&words.propose))
    std::visit(
        [&](auto& word) {
          if constexpr (requires { word.over.within; }) word.over.within = *groups;
        },
        words.weigh);
  return words;
}

// Every tensor of the score as one product with the tokens.
base::Work gate_work(const Context& context) {
  base::Work work = kernels::moved(context.tokens.rows(), context.tokens.x.cols, 1);
  for (const Weight& w : context.tensors) {
    work.weights += static_cast<int64_t>(w.bytes());
    work.operations += 2 * context.tokens.rows() * static_cast<int64_t>(w.size());
  }
  return work;
}

base::Work gate_backward_work(const Context& context) {
  base::Work work = gate_work(context);
  work.operations *= 2;  // to the tokens and to the gate
  return work;
}

}  // namespace

Router::Router() : Router(Words{NoScore{}, ProposeAll{}, AdmitAll{}, IdentityWeights{}, {}}) {}

Router::Router(Words words) : words_(std::make_shared<const Words>(introduced(std::move(words)))) {}

int Router::choices(int experts) const {
  return std::visit([&](const auto& propose) { return propose.choices(experts); }, words_->propose);
}

std::string Router::expression() const { return write_out(*words_); }

bool Router::causal() const {
  bool causal = std::visit([](const auto& admit) { return admit.kCausal; }, words_->admit);
  std::visit(
      [&](const auto& propose) {
        if constexpr (requires { propose.kCausal; }) causal = causal && propose.kCausal;
      },
      words_->propose);
  return causal;
}

bool Router::residual() const {
  return any_word(*words_, [](const auto& word) {
    if constexpr (requires { word.reads_previous(); }) return word.reads_previous();
    return false;
  });
}

bool Router::masks() const { return std::holds_alternative<Mask>(words_->admit); }

bool Router::skippable() const { return is_top_2(*words_) && admits_all_or_skip(*words_) && gain_of(*words_); }

std::optional<SubsetRule::Gain> Router::gain() const { return gain_of(*words_); }

std::string Router::admission() const {
  return std::visit([](const auto& word) { return word.text(); }, words_->admit);
}

std::optional<SubsetRule> Router::subset_rule() const { return subset_rule_of(*words_); }

bool Router::shares_matter() const {
  return any_word(*words_, [](const auto& word) {
    if constexpr (requires { word.shares_matter(); }) return word.shares_matter();
    return false;
  });
}

std::vector<GateTensor> Router::tensors(int experts, int width) const {
  return std::visit([&](const auto& score) { return score.tensors(experts, width); }, words_->score);
}

template <class Body>
void Router::each_loss(const Context& context, const Routing& routing, const Body& body) const {
  each_place(*words_, context.experts, [&](const auto& word, size_t state, size_t) {
    if constexpr (requires { word.loss(context, routing); })
      body(word.kName, word.loss(own(context, word, state), routing));
  });
}

void Router::route(const Context& context, Balancing balancing, Routing& routing) const {
  const base::Operator op(context.threads, "router", gate_work, context);
  const Words& words = *words_;
  const int rows = context.tokens.rows(), k = choices(context.experts);
  check_sizes(context, state_size(context.experts), k);
  fill_scores(words, context, balancing, routing);
  const Matrix<const float> key = selection_of(words, context, routing);
  routing.capacity = 0;
  each_place(words, context.experts, [&](const auto& word, size_t state, size_t) {
    const Context mine = own(context, word, state);
    if constexpr (requires { word.propose(mine, key, routing.proposed); }) {
      word.propose(mine, key, routing.proposed);
      for (int t = 0; t < rows; ++t)
        if (!context.tokens.counts(t)) std::fill_n(routing.proposed.begin() + static_cast<ptrdiff_t>(t) * k, k, -1);
      routing.chosen = routing.proposed;
    }
    if constexpr (requires { word.admit(mine, routing); }) word.admit(mine, routing);
  });
  build_plan(routing.chosen, rows, k, context.experts, routing.plan);
  std::visit([&](const auto& weigh) { weigh.forward(context, routing); }, words.weigh);
  routing.balance_loss = 0;
  routing.log_min_capacity.reset();
  if (balancing == Balancing::kOff) return;
  if (has_cosines(words, routing)) routing.log_min_capacity = log_min_capacity(context, routing);
  each_loss(context, routing, [&](const char*, double loss) { routing.balance_loss += loss; });
}

std::vector<std::pair<std::string, double>> Router::losses(const Context& context, const Routing& routing) const {
  std::vector<std::pair<std::string, double>> result;
  each_loss(context, routing, [&](const char* name, double loss) { result.emplace_back(name, loss); });
  return result;
}

void Router::backward(const Backward& step, const Context& context, const Routing& routing) const {
  const base::Operator op(context.threads, "router", gate_backward_work, context);
  const Words& words = *words_;
  base::Frame frame(context.threads);
  const Matrix<float> dz = matrix_in(frame, context.tokens.rows(), context.experts);
  if (step.dscore.data) std::copy_n(step.dscore.data, context.pairs(), dz.data);
  const std::span<float> dweight = frame.list(step.dweight);
  const BalanceGradient balance{dz, dweight, step.tensors, step.balance_scale, step.dx};
  each_place(words, context.experts, [&](const auto& word, size_t state, size_t) {
    if constexpr (requires { word.backward(context, routing, balance); })
      word.backward(own(context, word, state), routing, balance);
  });
  std::visit([&](const auto& weigh) { weigh.backward(context, routing, dweight, dz); }, words.weigh);
  std::visit(
      [&](const auto& score) {
        score.backward(context, routing, dz, {step.dx, step.tensors, step.previous});
      },
      words.score);
}

void Router::finish(const Context& context, const Plan& plan, Matrix<float> y) const {
  each_place(*words_, context.experts, [&](const auto& word, size_t state, size_t) {
    if constexpr (requires { word.finish(context, plan, y); }) word.finish(own(context, word, state), plan, y);
  });
}

void Router::finish_backward(const Context& context, const Plan& plan, Matrix<float> rows) const {
  each_place(*words_, context.experts, [&](const auto& word, size_t state, size_t) {
    if constexpr (requires { word.finish_backward(context, plan, rows); })
      word.finish_backward(own(context, word, state), plan, rows);
  });
}

int Router::state_size(int experts) const {
  int size = 0;
  each_word(*words_, [&](const auto& word) { size += state_of(word, experts); });
  return size;
}

void Router::initial_state(int experts, std::span<float> state) const {
  std::ranges::fill(state, 0.0f);
  each_place(*words_, experts, [&](const auto& word, size_t place, size_t) {
    if constexpr (requires { word.initial(state); })
      word.initial(state.subspan(place, static_cast<size_t>(state_of(word, experts))));
  });
}

int Router::sums_size(int experts) const {
  int size = 0;
  each_word(*words_, [&](const auto& word) { size += sums_of(word, experts); });
  return size;
}

void Router::observe(const Context& context, const Routing& routing, std::span<float> sums) const {
  each_place(*words_, context.experts, [&](const auto& word, size_t state, size_t place) {
    if constexpr (requires { word.observe(context, routing, sums); })
      if (const int size = sums_of(word, context.experts); size > 0)
        word.observe(own(context, word, state), routing, sums.subspan(place, static_cast<size_t>(size)));
  });
}

void Router::update(int experts, std::span<const float> sums, std::span<float> state) const {
  each_place(*words_, experts, [&](const auto& word, size_t at, size_t place) {
    if constexpr (requires { word.update(sums, state); })
      if (const int size = state_of(word, experts); size > 0)
        word.update(sums.subspan(place, static_cast<size_t>(sums_of(word, experts))),
                    state.subspan(at, static_cast<size_t>(size)));
  });
}

std::string Router::misfit(int experts, int width) const {
  std::string reason;
  each_word(*words_, [&](const auto& word) {
    if constexpr (requires { word.misfit(experts, width); })
      if (reason.empty()) reason = word.misfit(experts, width);
  });
  return reason;
}

Router parse_router(const std::string& expression) {
  const Words words = parse_words(expression);
  Router router(words);
  check_words(words, router);
  return router;
}

std::string with_admission(const std::string& expression, const std::string& admission) {
  Words words = parse_words(expression);
  if (!admits_all_or_skip(words))
    base::usage_error("skipping would take the place of the router's own admission", expression,
                      "it is made for routers that admit all");
  const bool skipped = std::holds_alternative<Skip>(words.admit);
  words.admit = parse_words("linear > top_k(1) > " + admission + " > softmax").admit;
  if (skipped && !std::holds_alternative<Skip>(words.admit)) divide_as_without_skip(words.weigh);
  check_words(words, Router(words));
  return write_out(words);
}

std::string with_weights(const std::string& expression, const std::string& weights) {
  Words words = parse_words(expression);
  words.weigh = parse_words("linear > top_k(1) > all > " + weights).weigh;
  check_words(words, Router(words));
  return write_out(words);
}

void check_router(const Router& router, int experts, int width, const std::string& where) {
  if (router.choices(experts) > experts)
    base::input_error(
        "the router chooses " + std::to_string(router.choices(experts)) + " of " + std::to_string(experts) + " experts",
        where, "lower top-k or keep more experts");
  if (const std::string reason = router.misfit(experts, width); !reason.empty())
    base::input_error("the router does not fit " + std::to_string(experts) + " experts: " + reason, where,
                      "change its arguments");
}

}  // namespace choir::moe
