#include "moe/parse.h"

#include <doctest/doctest.h>

#include <set>

#include "base/error.h"
#include "moe/router.h"

namespace choir::moe {
namespace {

TEST_CASE("parse: every alias is a router that reads back to itself") {
  std::set<std::string> names;
  for (const Alias& alias : aliases()) {
    CAPTURE(alias.name);
    CHECK(names.insert(alias.name).second);
    const std::string written = parse_router(alias.name).expression();
    CHECK(parse_router(written).expression() == written);
    CHECK(parse_router(alias.expression).expression() == written);
  }
  CHECK(names.size() >= 24);
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
  CHECK_THROWS_AS(check_router(parse_router("linear > top_k(1) > mask(4) > chosen"), 4, 64, "here"), base::Error);
  CHECK_THROWS_AS(check_router(parse_router("linear > all > threshold(5) > sigmoid"), 4, 64, "here"), base::Error);
  CHECK_THROWS_AS(check_router(parse_router("linear > positive > all > identity + l1_adaptive(5)"), 4, 64, "here"),
                  base::Error);
}

}  // namespace
}  // namespace choir::moe
