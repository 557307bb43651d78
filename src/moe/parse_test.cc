#include "moe/parse.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "moe/router.h"

namespace choir::moe {
namespace {

std::string refusal_of(const std::string& expression) {
  try {
    parse_router(expression);
  } catch (const base::Error& error) {
    CHECK(error.fault == base::Fault::kUsage);
    return error.what();
  }
  return "";
}

std::string again(const std::string& expression) { return parse_router(expression).expression(); }

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_CASE("parse: every alias is its expression, and reads back as itself") {
  CHECK(aliases().size() >= 25);
  for (const Alias& alias : aliases()) {
    CAPTURE(alias.name);
    CHECK(again(alias.name) == again(alias.expression));
    CHECK(again(again(alias.name)) == again(alias.name));
  }
}

TEST_CASE("parse: every argument survives being written out") {
  for (const std::string text :
       {"linear(sigmoid, residual, jitter=0.01, init=orthogonal) > all > all > softmax(renorm, scale=2.5)",
        "linear(sigmoid, bias) > top_k(3) > all > sigmoid(scale=2.5)", "linear > top_k(2) > all > sparsemixer(0.02)",
        "none > all > all > identity", "linear(sqrt_softplus) > top_k(3) > fifo(factor(1.1), order=slot) > sigmoid",
        "grap(eps=0.5) > top_k(1) > all > identity", "grap > top_k(1) > fifo(locmoe(lo=0.25, hi=1.1)) > identity",
        "grap_cosine(learn, kappa=3, center=0.5) > top_k(1) > top_capacity(etr_sum(tau=0.5, decay=0.8, lo=0.1, hi=2, "
        "tile=16)) > softmax + load(0.01, scope=sequence, of=sigmoid, eta=0.75) + z_loss(0.001) + locality(0.01, "
        "eps=0.05)",
        "dense_cosine(kappa=sqrt_d) > top_k(2) > top_capacity(etr_bound(stat=quantile, decay=0.9, lo=0.25, hi=1.1), "
        "floor=0.25, drop=reroute, bottom) > sigmoid_norm(scale=2.5) + bias(0.002)",
        "linear > all > top_capacity(factor(2, per=token, tile=8), key=prob, decode=threshold, theta_decay=0.5) > "
        "softmax",
        "linear > top_k(1) > top_capacity(theory(rank=0.25, decay=0.9, lo=0.25, hi=1.1), key=score) > chosen",
        "hash(seed=3) > top_k(1) > all > identity"}) {
    CAPTURE(text);
    CHECK(again(text) == text);
  }
}

TEST_CASE("parse: whole numbers that no float holds survive being written out") {
  for (const std::string text :
       {"hash(seed=16777217) > top_k(1) > all > identity", "hash(seed=123456789) > top_k(1) > all > identity",
        "linear > top_k(1) > fifo(factor(999.999)) > softmax"}) {
    CAPTURE(text);
    CHECK(again(text) == text);
  }
}

TEST_CASE("parse: words and arguments that are not known are named") {
  for (const auto& [text, part] :
       {std::pair{"linear > top_k(1) > fifo(often) > softmax", "unknown capacity \"often\""},
        {"linear > top_k(1) > fifo > softmax", "lacks a capacity"},
        {"linear > top_k(1) > top_capacity(key=prob) > softmax", "lacks a capacity"},
        {"linear > top_k(1) > fifo(etr_sum(tau=2)) > softmax", "out of range"},
        {"linear > top_k(1) > fifo(etr_sum(lo=2, hi=1)) > softmax", "lo is above hi"},
        {"linear > top_k(1) > fifo(factor(1.1), order=random) > softmax", "known: token, slot"},
        {"linear > top_k(1) > fifo(factor(1.1, stat=max)) > softmax", "unexpected argument"},
        {"linear > top_k(1) > top_capacity(factor(1.1), key=length) > softmax", "known: cos, score, prob"},
        {"linear > top_k(1) > top_capacity(factor(1.1), key=prob, floor=0.5) > softmax", "floor needs key=cos"},
        {"linear > top_k(1) > top_capacity(factor(1.1), decode=never) > softmax", "known: tcr, threshold"},
        {"grap_cosine(kappa=big) > top_k(1) > all > softmax", "\"big\" is not a number"},
        {"grap_cosine(kappa=-1) > top_k(1) > all > softmax", "out of range"},
        {"grap_cosine(center=1) > top_k(1) > all > softmax", "out of range"},
        {"linear(jitter=2) > top_k(1) > all > softmax", "out of range"},
        {"linear(init=zero) > top_k(1) > all > softmax", "known: normal, orthogonal"},
        {"linear > top_k(1) > all > softmax + load", "lacks alpha"},
        {"linear > top_k(1) > all > softmax + load(1, scope=layer)", "known: batch, sequence"},
        {"linear > top_k(1) > all > softmax + locality(0.1, eps=0)", "out of range"},
        {"linear > top_k(1) > all > softmax + bias(0.1, 3)", "unexpected argument"},
        {"linear > top_k(3) > all > sparsemixer", "top_k(2) > all"},
        {"linear(bias) > top_k(2) > top_capacity(factor(1)) > softmax", "compares cosines"},
        {"linear > top_k(2) > all > chosen + cv2(0.1, of=load)", "noisy > top_k(k)"},
        {"noisy > second_random > all > chosen + cv2(0.1, of=load)", "noisy > top_k(k)"},
        {"linear > top_k(1 > all > softmax", "bracket"},
        {"linear > top_k(1)) > all > softmax", "not a word"}}) {
    CAPTURE(text);
    CHECK(contains(refusal_of(text), part));
  }
}

TEST_CASE("parse: a name that takes no argument is refused with one, instead of ignoring it") {
  for (const std::string text : {"grap_cosine(center=ema(0.9)) > top_k(1) > all > softmax",
                                 "grap_cosine(center=off(0.9)) > top_k(1) > all > softmax",
                                 "grap_cosine(kappa=sqrt_d(2)) > top_k(1) > all > softmax",
                                 "dense_cosine(kappa=sqrt_d(2)) > top_k(1) > all > softmax",
                                 "grap_cosine(learn(no)) > top_k(1) > all > softmax"}) {
    CAPTURE(text);
    CHECK(!refusal_of(text).empty());
  }
}

TEST_CASE("parse: a selection of one kind alone") {
  CHECK(!refusal_of("linear(sigmoid, sqrt_softplus) > top_k(1) > all > softmax").empty());
}

TEST_CASE("parse: which routers see other tokens in training") {
  for (const auto& [text, causal] : {std::pair{"mixtral", true},
                                     {"hash", true},
                                     {"linear > top_k(2) > skip(0.5) > chosen", true},
                                     {"linear > top_k(8) > skip(tail=0.2) > softmax(renorm)", true},
                                     {"linear > groups(4, 2, 4) > skip(ser=0.2, least=2) > sigmoid_norm", true},
                                     {"switch", false},
                                     {"locmoe", false},
                                     {"etr", false},
                                     {"expert_choice", false}}) {
    CAPTURE(text);
    CHECK(parse_router(text).causal() == causal);
  }
}

TEST_CASE("parse: an admission put into another router") {
  CHECK(with_admission("mixtral", "skip(0.5)") == "linear > top_k(2) > skip(0.5) > chosen + load(0.02)");
  CHECK_THROWS_AS(with_admission("mixtral", "skip(0.5) > all"), base::Error);
}

TEST_CASE("parse: a gate that averages channels needs one for each expert") {
  for (const std::string text : {"etr", "locmoe", "grap_cosine(learn) > top_k(1) > all > softmax"}) {
    CHECK_NOTHROW(check_router(parse_router(text), 8, 8, "here"));
    CHECK_THROWS_AS(check_router(parse_router(text), 8, 7, "here"), base::Error);
  }
  CHECK_NOTHROW(check_router(parse_router("mixtral"), 8, 7, "here"));
}

TEST_CASE("parse: the state of each word begins where the one before ends") {
  const Router router = parse_router(
      "grap_cosine(center=ema) > top_k(1) > top_capacity(etr_sum, decode=threshold) > softmax + bias(0.1)");
  CHECK(router.state_size(5) == (1 + 5) + (1 + 2 * 5) + 5);
  CHECK(parse_router("mixtral").state_size(5) == 0);
  std::vector<float> state(22, 7);
  router.initial_state(5, state);
  CHECK(state == std::vector<float>(22));
}

TEST_CASE("parse: causality follows the words") {
  for (const char* name :
       {"mixtral", "dropless", "expert_threshold", "deepseek_v3", "quantile", "top_p", "remoe", "hash"})
    CHECK(parse_router(name).causal());
  for (const char* name : {"switch", "gshard", "base", "sinkhorn", "expert_choice", "etr", "capacity_drop_prob"})
    CHECK(!parse_router(name).causal());
}

TEST_CASE("parse: a router says why it does not fit a number of experts") {
  CHECK_NOTHROW(check_router(parse_router("deepseek_v3"), 256, 64, "here"));
  CHECK_THROWS_AS(check_router(parse_router("deepseek_v3"), 100, 64, "here"), base::Error);
  CHECK_THROWS_AS(check_router(Router(), 4, 64, "here"), base::Error);
  CHECK_THROWS_AS(check_router(parse_router("mixtral"), 0, 64, "here"), base::Error);
  CHECK_NOTHROW(check_router(Router(), 0, 64, "here"));
  CHECK_THROWS_AS(check_router(parse_router("linear > top_k(1) > mask(4) > chosen"), 4, 64, "here"), base::Error);
  CHECK_THROWS_AS(check_router(parse_router("linear > all > threshold(5) > sigmoid"), 4, 64, "here"), base::Error);
  CHECK_THROWS_AS(check_router(parse_router("linear > positive > all > identity + l1_adaptive(5)"), 4, 64, "here"),
                  base::Error);
}

TEST_CASE("parse: skipping stands in the place of no other admission") {
  CHECK(with_admission("linear > top_k(2) > skip(0.1) > chosen", "skip(0.5)") ==
        "linear > top_k(2) > skip(0.5) > chosen");
  CHECK(with_admission("olmoe", "all") == parse_router("olmoe").expression());
  for (const std::string text : {"switch", "capacity_drop_prob", "linear > top_k(2) > mask(1) > chosen", "olmoe",
                                 "linear > groups(2, 1, 2) > all > chosen", "linear > second_random > all > chosen"})
    CHECK_THROWS_AS(with_admission(text, "skip(0.5)"), base::Error);
}

TEST_CASE("parse: skipping of any top-k, what goes with it, and other weights") {
  CHECK(with_admission("olmoe", "skip(tail=0.25)") == "linear > top_k(8) > skip(tail=0.25) > softmax + load(0.01)");
  CHECK(with_admission("deepseek_v3", "skip(count=4)").find("> skip(count=4) > sigmoid_norm") != std::string::npos);
  CHECK(with_admission("linear > top_k(4) > skip(ser=0.1) > chosen(over=6)", "skip(tail=0.1)") ==
        "linear > top_k(4) > skip(tail=0.1) > chosen(over=6)");
  CHECK(with_admission("linear > top_k(4) > skip(ser=0.1) > chosen(over=6)", "all") ==
        "linear > top_k(4) > all > chosen");
  CHECK(with_admission("linear > top_k(4) > all > chosen(over=6)", "all") ==
        "linear > top_k(4) > all > chosen(over=6)");
  CHECK(with_weights("mixtral", "softmax(renorm)") == "linear > top_k(2) > all > softmax(renorm) + load(0.02)");
  CHECK_THROWS_AS(with_weights("mixtral", "magic"), base::Error);
  CHECK_THROWS_AS(with_weights("linear > positive > all > chosen", "chosen(over=3)"), base::Error);
  for (const std::string text : {"hash > top_k(1) > skip(count=1) > identity", "linear > top_k(4) > skip(0.5) > chosen",
                                 "linear > groups(2, 1, 2) > skip(0.5) > chosen"})
    CHECK_THROWS_AS(parse_router(text), base::Error);
  CHECK(parse_router("linear > top_k(4) > skip(tail=0.1) > chosen").admission() == "skip(tail=0.1)");
}

TEST_CASE("parse: where a capacity drops, the weights of what stays are those of the proposals") {
  for (const Alias& alias : aliases()) {
    const std::string text = alias.expression;
    CAPTURE(text);
    if (contains(text, "fifo(") || contains(text, "top_capacity(")) CHECK(!contains(text, "> chosen"));
  }
}

TEST_CASE("parse: blanks separate nothing by themselves") {
  for (const std::string text :
       {"linear > top_k(1 2) > all > softmax", "lin ear > top_k(1) > all > softmax",
        "linear > top_k(2) > all > softmax + load(0. 1)", "linear > top_k (2) 3 > all > softmax"}) {
    CAPTURE(text);
    CHECK(!refusal_of(text).empty());
  }
  CHECK(parse_router(" linear>top_k( 2 )\n> fifo ( factor(1) , order = slot ) >softmax +load(1)+ z_loss( 1 ) ")
            .expression() == "linear > top_k(2) > fifo(factor(1), order=slot) > softmax + load(1) + z_loss(1)");
}

TEST_CASE("parse: keys that would change nothing are refused") {
  for (const std::string text :
       {"linear > top_k(1) > top_capacity(factor(1), theta_decay=0.9) > softmax",
        "linear > top_k(1) > fifo(locmoe(decay=0.9)) > softmax",
        "linear > top_k(1) > top_capacity(factor(1), bottom, decode=threshold) > softmax",
        "linear > top_k(1) > fifo(factor(1.0625)) > softmax", "linear > top_k(1) > fifo(factor(999.9999)) > softmax",
        "linear > top_k(1) > fifo(factor(1, eta=0.0625)) > softmax"}) {
    CAPTURE(text);
    CHECK(!refusal_of(text).empty());
  }
  CHECK_NOTHROW(parse_router("linear > top_k(1) > fifo(factor(999.999, eta=0.125)) > softmax"));
}

}  // namespace
}  // namespace choir::moe
