#include "moe/router.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "moe/reference/case.h"

namespace choir::moe {
namespace {

// The text of the usage error that the expression gives; empty when it gives none.
std::string refusal_of(const std::string& expression) {
  try {
    parse_router(expression);
  } catch (const base::Error& error) {
    return error.fault == base::Fault::kUsage ? error.what() : "";
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_CASE("router: an alias is its expression written out") {
  CHECK(parse_router("mixtral").expression() == "linear > top_k(2) > all > chosen + load(0.02)");
}

TEST_CASE("router: an expression that is written out reads back as itself") {
  for (const std::string text :
       {"linear > top_k(1) > all > chosen", "linear > top_k(2) > all > chosen + load(0.01)",
        "linear > top_k(2) > skip(0.4) > chosen + load(0.02)", "linear > top_k(8) > all > chosen + load(0.001)",
        "linear > top_k(2) > skip(0) > chosen + load(0.5) + load(0.25)", "linear > top_k(2) > skip(1e+30) > chosen"}) {
    const Router router = parse_router(text);
    CHECK(router.expression() == text);
    CHECK(parse_router(router.expression()).expression() == text);
  }
  CHECK(parse_router("linear > top_k(4) > all > chosen").choices(7) == 4);
}

TEST_CASE("router: every float survives being written out") {
  for (const float beta : {0.1f, 1.0f / 3, 0.2718281828f, 1.17549435e-38f, 123456.789f}) {
    char text[64];
    std::snprintf(text, sizeof text, "linear > top_k(2) > skip(%.9g) > chosen", static_cast<double>(beta));
    const std::string once = parse_router(text).expression();
    CHECK(parse_router(once).expression() == once);
    const size_t open = once.find("skip(") + 5;
    CHECK(std::strtof(once.c_str() + open, nullptr) == beta);
  }
}

TEST_CASE("router: spaces do not matter") {
  CHECK(parse_router("linear>top_k( 2 )>\tall >chosen+load(0.02)").expression() ==
        parse_router("mixtral").expression());
}

TEST_CASE("router: an unknown word is named, with those that are known") {
  for (const auto& [expression, word, known] :
       {std::tuple{"cosine > top_k(2) > all > chosen", "\"cosine\" for score", "linear"},
        {"linear > best(2) > all > chosen", "\"best\" for propose", "top_k"},
        {"linear > top_k(2) > some > chosen", "\"some\" for admit", "skip"},
        {"linear > top_k(2) > all > tanh", "\"tanh\" for weigh", "chosen"},
        {"linear > top_k(2) > all > chosen + x_loss(1)", "\"x_loss\" for balance", "load"}}) {
    CAPTURE(expression);
    CHECK(contains(refusal_of(expression), word));
    CHECK(contains(refusal_of(expression), known));
  }
}

TEST_CASE("router: refuses expressions that are not four words") {
  for (const std::string text : {"", " ", "mistral", "linear", "linear > top_k(2) > all", "> > >",
                                 "linear > top_k(2) > all > chosen > chosen", "linear > top_k(2) > all > chosen +",
                                 "linear + load(1) > top_k(2) > all > chosen", "linear, top_k(2), all, chosen"}) {
    CAPTURE(text);
    CHECK(!refusal_of(text).empty());
  }
}

TEST_CASE("router: refuses wrong numbers of arguments and arguments that are no numbers") {
  for (const std::string word : {"top_k", "top_k()", "top_k(1,2)", "top_k(two)", "top_k(2", "top_k(2)x", "top_k(2x)",
                                 "top_k(2,)", "top_k((2))", "(2)"}) {
    CAPTURE(word);
    CHECK(!refusal_of("linear > " + word + " > all > chosen").empty());
  }
  CHECK(!refusal_of("linear(0.5, 0.5) > top_k(2) > all > chosen").empty());
  CHECK(!refusal_of("linear > top_k(2) > all(0) > chosen").empty());
}

TEST_CASE("router: refuses numbers out of range, NaN and infinity among them") {
  for (const std::string k : {"0", "-1", "4097", "1e300", "nan", "inf", "-nan"}) {
    CAPTURE(k);
    CHECK(contains(refusal_of("linear > top_k(" + k + ") > all > chosen"), "out of range"));
  }
  for (const std::string beta : {"-0.1", "nan", "inf", "1e31"})
    CHECK(contains(refusal_of("linear > top_k(2) > skip(" + beta + ") > chosen"), "out of range"));
  for (const std::string alpha : {"-1", "nan", "1001"})
    CHECK(contains(refusal_of("linear > top_k(2) > all > chosen + load(" + alpha + ")"), "out of range"));
}

TEST_CASE("router: a k that is no whole number is refused") {
  CHECK(!refusal_of("linear > top_k(2.5) > all > chosen").empty());
}

TEST_CASE("router: skipping is for top-2 alone") {
  CHECK(contains(refusal_of("linear > top_k(1) > skip(0.5) > chosen"), "top_k(2)"));
  CHECK(contains(refusal_of("linear > top_k(3) > skip(0.5) > chosen"), "top_k(2)"));
}

TEST_CASE("router: more choices than experts is an input error that names the place") {
  const Router router = parse_router("mixtral");
  CHECK_NOTHROW(check_router(router, 2, 8, "layer 3"));
  try {
    check_router(router, 1, 8, "layer 3");
    FAIL("accepted");
  } catch (const base::Error& error) {
    CHECK(error.fault == base::Fault::kInput);
    CHECK(error.where == "layer 3");
  }
}

// The plan and the loss of `rows` tokens of six channels for four experts.
void route(const Router& router, int rows, uint64_t from, Balancing balancing, Routing& routing) {
  reference::Case c(rows, 6, 4, from);
  c.fill_tensors(router);
  const std::vector<Weight> weights = c.weights();
  router.route(c.context(weights), balancing, routing);
}

TEST_CASE("router: a reused routing keeps nothing of the call before") {
  const Router router = parse_router("linear > top_k(2) > skip(0.5) > chosen + load(0.1)");
  Routing reused, fresh;
  route(router, 30, 2, Balancing::kOn, reused);
  CHECK(reused.balance_loss > 0);
  route(router, 3, 3, Balancing::kOff, reused);
  route(router, 3, 3, Balancing::kOff, fresh);
  CHECK(reused.balance_loss == 0);
  CHECK(reused.plan.offset == fresh.plan.offset);
  CHECK(reused.plan.token == fresh.plan.token);
  CHECK(reused.plan.weight == fresh.plan.weight);
  CHECK(reused.proposed == fresh.proposed);
  CHECK(reused.chosen == fresh.chosen);
}

TEST_CASE("router: NaN scores give a plan all the same") {
  const Router router = parse_router("mixtral");
  reference::Case c(1, 3, 4);
  c.x = {NAN, 1, 2};
  c.tensor = {std::vector<float>(4 * 3, 1.0f)};
  c.shape = {{4, 3}};
  const std::vector<Weight> weights = c.weights();
  router.route(c.context(weights), Balancing::kOn, c.routing);
  CHECK(c.routing.plan.edges() == 2);
  CHECK(c.routing.proposed == std::vector<int32_t>{0, 1});
  CHECK(std::isnan(c.routing.balance_loss));
}

TEST_CASE("router: which words read the shares of the whole step") {
  for (const auto& [text, matter] : {std::pair{"mixtral", true},
                                     {"remoe", true},
                                     {"deepseek_v2", false},
                                     {"quantile", false},
                                     {"linear > top_k(2) > all > chosen + load(1, scope=sequence) + load(1)", true}}) {
    CAPTURE(text);
    CHECK(parse_router(text).shares_matter() == matter);
  }
}

TEST_CASE("router: a call whose parts do not fit together is a broken promise") {
  const Router router = parse_router("linear > top_k(2) > all > softmax + bias(0.1)");
  reference::Case c(6, 4, 3);
  c.fill_tensors(router);
  const auto list = c.weights();
  const auto refused = [&] { CHECK_THROWS_AS(router.route(c.context(list), Balancing::kOff, c.routing), base::Error); };
  refused();  // no state
  c.state.assign(2, 0);
  refused();
  c.state.assign(3, 0);
  CHECK_NOTHROW(router.route(c.context(list), Balancing::kOff, c.routing));
  c.padding.assign(5, 0);
  refused();
  c.padding.clear();
  c.id.assign(7, 0);
  refused();
  c.id.clear();
  c.nodes = 2;
  refused();
  c.node.assign(6, 0);
  CHECK_NOTHROW(router.route(c.context(list), Balancing::kOff, c.routing));
}

TEST_CASE("router: more proposals than an int counts are refused before anything is written") {
  const Router router = parse_router("linear > all > all > softmax");
  reference::Case c(0, 1, 4096);
  Context context = c.context();
  context.tokens.x = {nullptr, 1 << 19, 1};
  CHECK_THROWS_AS(router.route(context, Balancing::kOff, c.routing), base::Error);
}

TEST_CASE("router: words that do not go together are refused") {
  for (const auto& [text, part] :
       {std::pair{"grap_cosine(learn) > top_k(1) > all > softmax + ortho(1)", "row for each expert"},
        {"linear(residual) > top_k(1) > top_capacity(factor(1)) > softmax", "cosines"},
        {"linear(residual) > top_k(1) > top_capacity(etr_sum, key=score) > softmax", "cosines"},
        {"linear(residual) > top_k(1) > fifo(etr_bound) > softmax", "cosines"},
        {"grap(eps=0.1) > top_k(1) > fifo(locmoe) > softmax", "cosines"},
        {"grap(eps=0.1) > top_k(1) > threshold(1, key=cos) > softmax", "cosines"}}) {
    CAPTURE(text);
    CHECK(contains(refusal_of(text), part));
  }
  for (const char* text :
       {"dense_cosine > top_k(1) > all > softmax + ortho(1)", "projected_cosine > top_k(1) > all > softmax + ortho(1)",
        "linear(residual) > top_k(1) > top_capacity(factor(1), key=prob) > softmax",
        "grap > top_k(1) > top_capacity(etr_sum, floor=0.1) > softmax"})
    CHECK_NOTHROW(parse_router(text));
}

TEST_CASE("router: which routers stay the same without some of their experts") {
  for (const char* text : {"mixtral", "dropless", "linear > top_k(2) > skip(0.5) > chosen",
                           "linear(jitter=0.1) > top_k(1) > all > chosen", "olmoe", "qwen3", "deepseek_v3"})
    CHECK(parse_router(text).subset_rule());
  for (const char* text :
       {"quantile", "etr", "top_p", "switch", "moe_plus_plus", "linear > top_k(2) > all > chosen + l1_adaptive(1)"})
    CHECK(!parse_router(text).subset_rule());
}

}  // namespace
}  // namespace choir::moe
