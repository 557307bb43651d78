#include "report/page.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "report/diagnosis.h"
#include "report/template.h"
#include "report/thin.h"

namespace choir::report {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kLossBuckets = 1000;  // two points each, the least and the greatest
constexpr size_t kOtherBuckets = 400;  // of small charts, some 400 pixels wide
constexpr size_t kLayerBuckets = 160;  // of a chart with a line for each layer
constexpr size_t kKnots = 500;         // from which the page finds tokens and seconds of a step
constexpr size_t kMapNumbers = 60000;  // of all heat maps of a run, so that a page stays below some megabytes
constexpr size_t kCosineNumbers = 60000;
constexpr double kEnd = 0.1;  // what a table calls the end of a run: long enough for a mean without noise

// No more digits than an eye can read off a chart; NaN becomes null.
Json brief(double value, int digits = 5) {
  if (!std::isfinite(value)) return nullptr;
  char text[40];
  std::snprintf(text, sizeof text, "%.*g", digits, value);
  const double read = std::strtod(text, nullptr);
  if (read == std::floor(read) && std::fabs(read) < 1e15) return static_cast<int64_t>(read);
  return read;
}

Json exact(double value) { return brief(value, 15); }

Json brief(const Column& values, int digits = 5) {
  Json json = Json::array();
  for (const double v : values) json.push_back(brief(v, digits));
  return json;
}

Json brief(const Rows& rows) {
  Json json = Json::array();
  for (const Column& row : rows) json.push_back(brief(row, 4));
  return json;
}

bool has_numbers(const Column& values) {
  return std::any_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
}

Json curve_of(const Column& step, const Column& values, size_t buckets) {
  const Curve curve = thin(step, values, buckets);
  Json json{{"step", brief(curve.step, 15)}, {"mean", brief(curve.mean)}};
  if (!curve.low.empty()) {
    json["low"] = brief(curve.low);
    json["high"] = brief(curve.high);
  }
  return json;
}

Json axis_of(const Steps& steps) {
  Json step = Json::array(), tokens = Json::array(), seconds = Json::array();
  for (const size_t i : spread(steps.size(), kKnots)) {
    step.push_back(exact(steps.step[i]));
    tokens.push_back(exact(steps.tokens[i]));
    seconds.push_back(brief(steps.elapsed[i], 6));
  }
  return {{"step", step}, {"tokens", tokens}, {"seconds", seconds}};
}

Json curves_of(const Steps& steps) {
  Json curves = Json::object();
  for (const auto& [field, values] : steps.total)
    if (has_numbers(values) && field != "seconds")  // which tokens a second tell
      curves[field] = curve_of(steps.step, values, field == "loss" ? kLossBuckets : kOtherBuckets);
  return curves;
}

Json layers_of(const Steps& steps) {
  Json layers = Json::object();
  for (const auto& [field, rows] : steps.layers) {
    if (std::none_of(rows.begin(), rows.end(), has_numbers)) continue;
    for (const Column& row : rows) layers[field].push_back(curve_of(steps.step, row, kLayerBuckets));
  }
  return layers;
}

size_t count(const Rows& rows) {
  size_t n = 0;
  for (const Column& row : rows) n += row.size();
  return n;
}

size_t map_numbers(const Evaluation& e) {
  size_t n = 0;
  for (const Domain& d : e.domains) n += count(d.load) + count(d.affinity);
  return n;
}

size_t cosine_numbers(const Evaluation& e) {
  size_t n = 0;
  for (const Rows& layer : e.expert_cosine) n += count(layer);
  return n;
}

// The evaluations whose tables go into the page: all of them, or as many as `most` numbers allow, the last in any case.
template <class Count>
std::vector<size_t> chosen(const std::vector<Evaluation>& all, Count count_of, size_t most) {
  std::vector<size_t> holding, result;
  size_t largest = 1;
  for (size_t i = 0; i < all.size(); ++i)
    if (const size_t n = count_of(all[i])) {
      holding.push_back(i);
      largest = std::max(largest, n);
    }
  for (const size_t i : spread(holding.size(), most / largest)) result.push_back(holding[i]);
  return result;
}

Json domains_of(const Evaluation& e, bool maps) {
  Json domains = Json::array();
  for (const Domain& d : e.domains) {
    Json domain{{"name", d.name}, {"tokens", exact(d.tokens)}};
    if (maps && !d.load.empty()) domain["load"] = brief(d.load);
    if (maps && !d.affinity.empty()) domain["affinity"] = brief(d.affinity);
    if (!maps) domain.update({{"loss", brief(d.loss)}, {"loss_training_rule", brief(d.loss_training_rule)}});
    domains.push_back(domain);
  }
  return domains;
}

Json evaluations_of(const std::vector<Evaluation>& all) {
  Json list = Json::array();
  for (const size_t i : spread(all.size(), kOtherBuckets)) {
    const Evaluation& e = all[i];
    list.push_back({{"step", exact(e.step)},
                    {"loss", brief(e.loss)},
                    {"loss_training_rule", brief(e.loss_training_rule)},
                    {"agreement", brief(e.agreement)},
                    {"ch_index", brief(e.ch_index)}});
  }
  return list;
}

Json maps_of(const std::vector<Evaluation>& all) {
  Json list = Json::array();
  for (const size_t i : chosen(all, map_numbers, kMapNumbers))
    list.push_back({{"step", exact(all[i].step)}, {"domains", domains_of(all[i], true)}});
  return list;
}

Json cosines_of(const std::vector<Evaluation>& all) {
  Json list = Json::array();
  for (const size_t i : chosen(all, cosine_numbers, kCosineNumbers)) {
    Json layers = Json::array();
    for (const Rows& layer : all[i].expert_cosine) layers.push_back(brief(layer));
    list.push_back({{"step", exact(all[i].step)}, {"layers", layers}});
  }
  return list;
}

Column end_of(const Column& column) {
  const auto n = static_cast<std::ptrdiff_t>(std::ceil(kEnd * static_cast<double>(column.size())));
  return {column.end() - n, column.end()};
}

// Over the end of the run: a field of the lines or, where lines have none, the mean over the layers.
double at_end(const Steps& steps, const std::string& field) {
  if (const Column* column = steps.find(field)) return mean(end_of(*column));
  Column means;
  if (const Rows* rows = steps.find_layers(field))
    for (const Column& row : *rows) means.push_back(mean(end_of(row)));
  return mean(means);
}

double median_of(const Steps& steps, const std::string& field) {
  const Column* column = steps.find(field);
  return column ? median(*column) : NAN;
}

double most_of(const Steps& steps, const std::string& field) {
  double most = NAN;
  if (const Column* column = steps.find(field))
    for (const double v : *column) most = std::fmax(most, v);
  return most;
}

Json summary_of(const Run& run) {
  Json json{{"training_loss", brief(at_end(run.steps, "loss"))},
            {"tokens_per_expert", brief(at_end(run.steps, "tokens_per_expert"))},
            {"processed_share", brief(at_end(run.steps, "processed_share"))},
            {"max_over_mean_load", brief(at_end(run.steps, "max_over_mean_load"))},
            {"step_seconds", brief(mean(run.steps.find("seconds") ? *run.steps.find("seconds") : Column{}))},
            {"tokens_per_second", brief(median_of(run.steps, "tokens_per_second"))},
            {"peak_memory", exact(most_of(run.steps, "peak_memory"))}};
  if (run.evaluations.empty()) return json;
  const Evaluation& last = run.evaluations.back();
  json["loss"] = brief(last.loss);
  json["loss_training_rule"] = brief(last.loss_training_rule);
  json["domains"] = domains_of(last, false);
  return json;
}

Json findings_of(const Run& run) {
  Json list = Json::array();
  for (const Finding& f : diagnose(run))
    if (f.severity != Severity::kOk)
      list.push_back(
          {{"severity", name_of(f.severity)}, {"check", f.check}, {"layer", f.layer}, {"message", f.message}});
  return list;
}

Json json_of(const Run& run) {
  const auto known = [](const std::optional<int64_t>& n) { return n ? Json(*n) : Json(nullptr); };
  return {{"name", run.name},
          {"title", run.title},
          {"router", run.router},
          {"parameters", known(run.parameters)},
          {"active_parameters", known(run.active_parameters)},
          {"seed", known(run.seed)},
          {"steps", exact(run.steps.step.back())},
          {"tokens", exact(run.steps.tokens.back())},
          {"seconds", brief(run.steps.elapsed.back(), 6)},
          {"summary", summary_of(run)},
          {"findings", findings_of(run)},
          {"axis", axis_of(run.steps)},
          {"curves", curves_of(run.steps)},
          {"layers", layers_of(run.steps)},
          {"evaluations", evaluations_of(run.evaluations)},
          {"maps", maps_of(run.evaluations)},
          {"cosines", cosines_of(run.evaluations)}};
}

// A "<" in the data could end its element or begin a comment; JSON has another way to write it.
std::string without_tags(const std::string& json) {
  std::string safe;
  safe.reserve(json.size());
  for (const char c : json)
    if (c == '<')
      safe += "\\u003c";
    else
      safe += c;
  return safe;
}

}  // namespace

std::string page_data(const std::vector<Run>& runs) {
  Json list = Json::array();
  for (const Run& run : runs) list.push_back(json_of(run));
  return without_tags(Json{{"runs", list}}.dump(-1, ' ', false, Json::error_handler_t::replace));
}

std::string page(const std::vector<Run>& runs) {
  const std::pair<std::string_view, std::string> parts[] = {
      {"{{css}}", std::string(kPageCss)}, {"{{data}}", page_data(runs)}, {"{{js}}", std::string(kPageJs)}};
  std::string result;
  std::string_view rest = kPageHtml;
  for (const auto& [mark, text] : parts) {  // in the order in which they stand, so that no text is searched for marks
    const size_t at = rest.find(mark);
    CHOIR_CHECK(at != std::string_view::npos, std::string(mark));
    result += std::string(rest.substr(0, at)) + text;
    rest.remove_prefix(at + mark.size());
  }
  return result += rest;
}

}  // namespace choir::report
