#include "report/page.h"

#include <doctest/doctest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "report/template.h"
#include "report/test_run.h"

namespace choir::report {
namespace {

TEST_CASE("page: the data is JSON that reads back, and in the page as it is") {
  const TemporaryDirectory place;
  write_run(place.file("one"), 50);
  write_run(place.file("two"), 20);
  const auto runs = read_runs({place.file("one"), place.file("two")});
  const Json data = Json::parse(page_data(runs));
  REQUIRE(data["runs"].size() == 2);
  const Json& one = data["runs"][0];
  CHECK(one["name"] == "one");
  CHECK(one["steps"] == 50);
  CHECK(one["curves"]["loss"]["mean"].size() == 50);
  CHECK(one["layers"]["capacity"].size() == kLayers);
  CHECK(one["evaluations"].size() == 2);
  CHECK(!one["evaluations"][0].contains("tokens"));  // those are held out: no place on the axis of tokens
  CHECK(one["maps"][1]["domains"][0]["load"][1][7] == 0.2);
  CHECK(one["cosines"][1]["layers"].size() == kLayers);
  CHECK(one["summary"]["loss"] == 3.05);
  CHECK(one["summary"]["tokens_per_expert"].get<double>() == doctest::Approx(120.6));
  CHECK(one["summary"]["peak_memory"] == 1 << 30);
  CHECK(contains(page(runs), page_data(runs)));
}

TEST_CASE("page: pairs on the token's node are shown where the run has them") {
  const TemporaryDirectory place;
  write_run(place.path(), 5, [](Json& line, int) {
    line["local_share"] = 0.5;
    line["layers"]["local_share"] = {0.5, 0.25};
  });
  const Json one = Json::parse(page_data({read_run(place.path())}))["runs"][0];
  CHECK(one["curves"]["local_share"]["mean"][4] == 0.5);
  CHECK(one["layers"]["local_share"][1]["mean"][4] == 0.25);
  CHECK(contains(std::string(kPageJs), "fieldChart(\"local_share\""));
}

TEST_CASE("page: the least capacity is shown where a layer's router has one") {
  const TemporaryDirectory place;
  write_run(place.path(), 5, [](Json& line, int) { line["layers"]["log_min_capacity"] = {nullptr, -1.5}; });
  const Json one = Json::parse(page_data({read_run(place.path())}))["runs"][0];
  CHECK(one["layers"]["log_min_capacity"][0]["mean"][4].is_null());
  CHECK(one["layers"]["log_min_capacity"][1]["mean"][4] == -1.5);
  CHECK(contains(std::string(kPageJs), "[\"log_min_capacity\""));
}

TEST_CASE("page: no name, domain or router ends the data's element") {
  const TemporaryDirectory place;
  const std::string evil = "</script><!--<script>{{js}}";
  write_run(place.path(), 3, {}, evil);
  Run run = read_run(place.path());
  run.name = evil;
  run.evaluations[0].domains[0].name = evil;
  const std::string data = page_data({run});
  CHECK(!contains(data, "<"));
  CHECK(Json::parse(data)["runs"][0]["name"] == evil);
  const std::string whole = page({run});
  CHECK(!contains(whole, evil));
  CHECK(contains(whole, std::string(kPageJs)));
}

TEST_CASE("page: a name that is no UTF-8 does no harm") {
  const TemporaryDirectory place;
  write_run(place.path(), 3);
  Run run = read_run(place.path());
  run.name = "a\xff";
  CHECK(Json::parse(page_data({run}))["runs"][0]["name"].get<std::string>().starts_with("a"));
}

TEST_CASE("page: long curves and many evaluations are thinned") {
  Run run;
  run.name = "long";
  for (int step = 1; step <= 50000; ++step) {
    run.steps.step.push_back(step);
    run.steps.tokens.push_back(step);
    run.steps.elapsed.push_back(step);
    run.steps.total["loss"].push_back(step == 31234 ? 99 : 3 + 0.1 * wobble(step, 1));
  }
  const Column row(64, 1.0 / 64);
  for (int i = 1; i <= 1000; ++i)
    run.evaluations.push_back({1.0 * i, 1, 1, 3, 3, 1, {{"d", 1, 3, 3, Rows(16, row), {}}}, {Rows(64, row)}, {}});
  const Json one = Json::parse(page_data({run}))["runs"][0];
  const Json& loss = one["curves"]["loss"];
  CHECK(loss["low"].size() + loss["high"].size() <= 2000);
  double most = 0;
  for (const Json& value : loss["high"]) most = std::max(most, value.get<double>());
  CHECK(most == 99);
  CHECK(one["evaluations"].size() <= 400);
  CHECK(one["maps"].size() * 16 * 64 <= 60000);
  CHECK(one["cosines"].size() * 64 * 64 <= 60000);
  CHECK(one["maps"].back()["step"] == 1000);
  CHECK(page_data({run}).size() < 2000000);
}

TEST_CASE("page: what a run lacks is not in its data") {
  const TemporaryDirectory place;
  place.write("metrics.jsonl", "{\"step\":1,\"loss\":2.5,\"balance_loss\":null}\n");
  const Json one = Json::parse(page_data({read_run(place.path())}))["runs"][0];
  CHECK(one["curves"].size() == 1);
  CHECK(one["layers"].empty());
  CHECK(one["maps"].empty());
  CHECK(one["parameters"].is_null());
  CHECK(one["axis"]["seconds"][0].is_null());
}

TEST_CASE("page: nothing is loaded from elsewhere") {
  for (const std::string_view part : {kPageHtml, kPageCss, kPageJs})
    for (const char* way : {"http:", "https:", "//cdn", "@import", "url(h", "url(\"", "import(", "fetch("})
      CHECK(part.find(way) == std::string_view::npos);
}

}  // namespace
}  // namespace choir::report
