#include "report/frontier_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/template.h"

namespace choir::report {
namespace {

constexpr double kWidth = 560, kHeight = 340, kLeft = 56, kRight = 14, kTop = 12, kBottom = 44;
constexpr int kColours = 8;  // --r0 .. --r7 of the style

std::string escaped(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    if (c == '&')
      safe += "&amp;";
    else if (c == '<')
      safe += "&lt;";
    else if (c == '>')
      safe += "&gt;";
    else if (c == '"')
      safe += "&quot;";
    else
      safe += c;
  }
  return safe;
}

// From numbers to places: least .. most on first .. last.
struct Axis {
  double least, most, first, last;

  double at(double v) const { return first + (v - least) / (most - least) * (last - first); }

  // Steps of 1, 2 or 5 times a power of ten, some five of them.
  double step() const {
    const double rough = (most - least) / 5, power = std::pow(10, std::floor(std::log10(rough)));
    for (const double factor : {1.0, 2.0, 5.0})
      if (rough <= factor * power) return factor * power;
    return 10 * power;
  }
};

template <class Value>
Axis axis_of(const FrontierChart& chart, bool from_zero, double first, double last, const Value& value) {
  double least = from_zero ? 0 : HUGE_VAL, most = -HUGE_VAL;
  for (const FrontierLine& line : chart.lines)
    for (const FrontierPoint& point : line.points) {
      least = std::min(least, value(point));
      most = std::max(most, value(point));
    }
  if (!(most >= least)) least = 0, most = 1;  // no points
  const double room = most > least ? 0.04 * (most - least) : std::max(1e-9, std::fabs(most) * 0.1);
  return {from_zero ? 0 : least - room, most + room, first, last};
}

std::string grid(const Axis& x, const Axis& y, const FrontierChart& chart) {
  std::string svg;
  for (double v = std::ceil(y.least / y.step()) * y.step(); v <= y.most; v += y.step())
    svg += fmt::format(
        "<line class=\"rule\" x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/><text x=\"{3}\" y=\"{4:.1f}\" "
        "text-anchor=\"end\">{5:.4g}</text>\n",
        x.first, x.last, y.at(v), x.first - 6, y.at(v) + 4, v);
  for (double v = std::ceil(x.least / x.step()) * x.step(); v <= x.most; v += x.step())
    svg += fmt::format(
        "<line class=\"rule\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\"/><text x=\"{0:.1f}\" y=\"{3}\" "
        "text-anchor=\"middle\">{4:.6g}</text>\n",
        x.at(v), y.last, y.first, y.first + 16, v);
  svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", (x.first + x.last) / 2,
                     kHeight - 6, escaped(chart.x_name));
  return svg + fmt::format("<text transform=\"translate(12 {:.1f}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
                           (y.first + y.last) / 2, escaped(chart.y_name));
}

std::string drawn(const FrontierLine& line, const Axis& x, const Axis& y, bool scattered) {
  std::string path, points;
  for (const FrontierPoint& p : line.points) {
    path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : " L", x.at(p.x), y.at(p.y));
    if (p.knee)
      points += fmt::format(
          "<circle class=\"knee\" cx=\"{0:.1f}\" cy=\"{1:.1f}\" r=\"9\"/><text class=\"knee\" x=\"{2:.1f}\" "
          "y=\"{3:.1f}\">knee</text>\n",
          x.at(p.x), y.at(p.y), x.at(p.x) + 11, y.at(p.y) - 8);
    points += fmt::format("<circle class=\"point\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\"><title>{}</title></circle>\n",
                          x.at(p.x), y.at(p.y), escaped(p.label));
  }
  if (!scattered) points = fmt::format("<path d=\"{}\"/>\n", path) + points;
  return fmt::format("<g style=\"--c: var(--r{})\">{}</g>\n", line.colour % kColours, points);
}

std::string legend(const FrontierChart& chart) {
  std::string html;
  for (const FrontierLine& line : chart.lines)
    html += fmt::format("<span><i class=\"chip\" style=\"border-color: var(--r{})\"></i> {}</span>\n",
                        line.colour % kColours, escaped(line.name));
  return "<p class=\"names\">" + html + "</p>\n";
}

std::string figure(const FrontierChart& chart) {
  const Axis x = axis_of(chart, false, kLeft, kWidth - kRight, [](const FrontierPoint& p) { return p.x; });
  const Axis y = axis_of(chart, true, kHeight - kBottom, kTop, [](const FrontierPoint& p) { return p.y; });
  std::string html = fmt::format("<figure class=\"card\">\n<h3>{}</h3>\n{}", escaped(chart.title), legend(chart));
  html += fmt::format("<svg class=\"chart\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n", kWidth, kHeight,
                      escaped(chart.title));
  html += grid(x, y, chart);
  for (const FrontierLine& line : chart.lines) html += drawn(line, x, y, chart.scattered);
  return html + "</svg>\n</figure>\n";
}

std::string table(const FrontierPage& page) {
  std::string html = "<div class=\"card scroll\">\n<table>\n<thead><tr>";
  for (const std::string& column : page.columns) html += "<th>" + escaped(column) + "</th>";
  html += "</tr></thead>\n<tbody>\n";
  for (size_t i = 0; i < page.rows.size(); ++i) {
    html += std::ranges::count(page.marked, i) ? "<tr class=\"marked\">" : "<tr>";
    for (size_t c = 0; c < page.rows[i].size(); ++c)
      html += (c == 0 ? "<th>" : "<td>") + escaped(page.rows[i][c]) + (c == 0 ? "</th>" : "</td>");
    html += "</tr>\n";
  }
  return html + "</tbody>\n</table>\n</div>\n";
}

// Beside the style of the page of training runs.
constexpr const char* kStyle =
    ".names { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .3rem 0; font-size: .8rem; color: var(--soft); "
    "}\n"
    "svg.chart g path { stroke: var(--c); }\n"
    "svg.chart .point { fill: var(--c); stroke: var(--card); }\n"
    "svg.chart circle.knee { fill: none; stroke: var(--ink); stroke-width: 1.5; }\n"
    "svg.chart text.knee { fill: var(--ink); font-weight: 600; }\n"
    "tr.marked > * { font-weight: 700; }\n"
    "tbody th { max-width: none; }\n";

}  // namespace

std::string frontier_page(const FrontierPage& page) {
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n<title>{0}</title>\n<style>\n{1}{2}</style>\n</head>\n"
      "<body>\n<header>\n<h1>{0}</h1>\n",
      escaped(page.title), kPageCss, kStyle);
  for (const std::string& note : page.notes) html += "<p>" + escaped(note) + "</p>\n";
  html += "</header>\n<main>\n<div class=\"grid\">\n";
  for (const FrontierChart& chart : page.charts) html += figure(chart);
  return html + "</div>\n<h2>Numbers</h2>\n" + table(page) + "</main>\n</body>\n</html>\n";
}

}  // namespace choir::report
