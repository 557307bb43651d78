#include "report/frontier_page.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>

namespace choir::report {
namespace {

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

FrontierPage small_page() {
  FrontierPage page;
  page.title = "a <b> & \"c\"";
  page.notes = {"one note"};
  page.charts = {{"losses", "MB", "KL", {{"search", 1, {{1, 2, "first"}, {2, 0.5, "bend", true}, {4, 0, "last"}}}}}};
  page.columns = {"model", "KL"};
  page.rows = {{"x<1", "2"}, {"y", "3"}};
  page.marked = {1};
  return page;
}

TEST_CASE("frontier page: everything is drawn, nothing comes from elsewhere, and texts are escaped") {
  const std::string html = frontier_page(small_page());
  CHECK(count(html, "class=\"point\"") == 3);
  CHECK(count(html, "<circle class=\"knee\"") == 1);
  CHECK(count(html, "<title>bend</title>") == 1);
  CHECK(count(html, "<h1>a &lt;b&gt; &amp; &quot;c&quot;</h1>") == 1);
  CHECK(count(html, "<th>x&lt;1</th>") == 1);
  CHECK(count(html, "<tr class=\"marked\"><th>y</th><td>3</td></tr>") == 1);
  for (const char* foreign : {"http:", "https:", "src=", "href=", "url(", "@import", "<script"})
    CHECK(count(html, foreign) == 0);
  CHECK(count(html, "prefers-color-scheme: dark") >= 1);
}

TEST_CASE("frontier page: lower losses stand lower, larger numbers further to the right") {
  const std::string html = frontier_page(small_page());
  const size_t at = html.find("<path d=\"M") + 10;
  double x[3], y[3];
  const std::string path = html.substr(at, html.find('"', at) - at);
  REQUIRE(std::sscanf(path.c_str(), "%lf %lf L%lf %lf L%lf %lf", &x[0], &y[0], &x[1], &y[1], &x[2], &y[2]) == 6);
  CHECK((x[0] < x[1] && x[1] < x[2]));
  CHECK((y[0] < y[1] && y[1] < y[2]));  // of SVG, which counts downwards
  CHECK(x[1] - x[0] == doctest::Approx((x[2] - x[1]) / 2).epsilon(0.01));
}

TEST_CASE("frontier page: a chart of one point, or of none, is drawn too") {
  FrontierPage page = small_page();
  page.charts[0].lines = {{"one", 0, {{3, 0, "only"}}}, {"none", 9, {}}};
  const std::string html = frontier_page(page);
  CHECK(count(html, "class=\"point\"") == 1);
  CHECK(count(html, "nan") == 0);
  CHECK(count(html, "inf\"") == 0);
  page.charts[0].lines.clear();
  CHECK(count(frontier_page(page), "nan") == 0);
}

TEST_CASE("frontier page: a scattered chart has its points and no line") {
  FrontierPage page = small_page();
  page.charts[0].scattered = true;
  const std::string html = frontier_page(page);
  CHECK(count(html, "class=\"point\"") == 3);
  CHECK(count(html, "<path") == 0);
}

}  // namespace
}  // namespace choir::report
