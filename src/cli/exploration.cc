#include "cli/exploration.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "compress/knee.h"
#include "report/frontier_page.h"
#include "runtime/machine.h"

namespace choir::cli {
namespace {

using Json = nlohmann::ordered_json;

template <class Value>
Json known(const std::optional<Value>& value) {
  return value ? Json(*value) : Json(nullptr);
}

double million(int64_t bytes) { return static_cast<double>(bytes) / 1e6; }

Json model_json(const ExploredModel& m, const ExploredModel& full) {
  Json json{{"method", m.method},
            {"keep_ratio", known(m.keep_ratio)},
            {"skip_share", known(m.skip_share)},
            {"experts", m.experts},
            {"evaluations", m.evaluations},
            {"skipped_share", m.skipped_share},
            {"bytes_per_token", m.token_bytes},
            {"bytes", m.bytes},
            {"bytes_share", static_cast<double>(m.bytes) / static_cast<double>(full.bytes)},
            {"calibration_loss", known(m.loss)},
            {"kl_mean", m.distance.kl_mean},
            {"kl_spread", m.draws > 1 ? Json(m.kl_spread) : Json(nullptr)},
            {"draws", m.draws},
            {"kl_p99", m.distance.kl_p99},
            {"perplexity", m.distance.perplexity_other},
            {"top1_agreement", m.distance.top1_agreement},
            {"accuracy", known(m.accuracy)}};
  const auto of_speed = [&](double Speed::*field) { return m.speed ? Json((*m.speed).*field) : Json(nullptr); };
  json["decode_tokens_per_second"] = of_speed(&Speed::decode);
  json["decode_speedup"] = of_speed(&Speed::decode_ratio);
  json["prefill_tokens_per_second"] = of_speed(&Speed::prefill);
  json["prefill_speedup"] = of_speed(&Speed::prefill_ratio);
  json["knee"] = m.knee;
  return json;
}

void mark_knee(std::vector<ExploredModel*> line, double (*cost)(const ExploredModel&), const ExploredModel& full) {
  std::ranges::stable_sort(line, {}, [&](const ExploredModel* m) { return cost(*m); });
  std::vector<double> x, y;
  for (const ExploredModel* m : line) {
    if (!x.empty() && !(cost(*m) > x.back())) continue;
    x.push_back(cost(*m));
    y.push_back(m->distance.kl_mean);
  }
  x.push_back(cost(full));
  y.push_back(0);
  const auto bend = compress::knee(x, y);
  if (!bend) return;
  const auto found = std::ranges::find_if(line, [&](const ExploredModel* m) { return cost(*m) == x[*bend]; });
  if (found != line.end()) (*found)->knee = true;
}

const std::vector<std::string> kColumns{"model",      "experts", "evaluations", "skipped", "MB",       "MB/token",
                                        "KL",         "KL p99",  "perplexity",  "top-1",   "accuracy", "decode /s",
                                        "prefill /s", ""};

std::string experts_text(const std::vector<int>& experts) {
  if (std::ranges::count(experts, experts.front()) == static_cast<std::ptrdiff_t>(experts.size()))
    return std::to_string(experts.front());
  return fmt::format("{}", fmt::join(experts, ","));
}

std::vector<std::string> cells_of(const ExploredModel& m) {
  const auto speed = [](double rate, double ratio) { return fmt::format("{:.0f} ({:.2f}x)", rate, ratio); };
  return {m.name(),
          experts_text(m.experts),
          fmt::format("{:.0f} %", 100 * m.evaluations),
          fmt::format("{:.1f} %", 100 * m.skipped_share),
          fmt::format("{:.2f}", million(m.bytes)),
          fmt::format("{:.2f}", m.token_bytes / 1e6),
          fmt::format("{:.4f}", m.distance.kl_mean),
          fmt::format("{:.3f}", m.distance.kl_p99),
          fmt::format("{:.2f}", m.distance.perplexity_other),
          fmt::format("{:.1f} %", 100 * m.distance.top1_agreement),
          m.accuracy ? fmt::format("{:.1f} %", 100 * *m.accuracy) : "-",
          m.speed ? speed(m.speed->decode, m.speed->decode_ratio) : "-",
          m.speed ? speed(m.speed->prefill, m.speed->prefill_ratio) : "-",
          m.knee ? "<- knee" : ""};
}

std::vector<std::vector<std::string>> rows_of(const Exploration& e) {
  std::vector<std::vector<std::string>> rows{cells_of(e.full)};
  for (const ExploredModel& m : e.models) rows.push_back(cells_of(m));
  return rows;
}

// A line for each method that `shown` takes, from the full model on.
struct ChartKind {
  std::string title, x_name;
  double (*x)(const ExploredModel&);
  bool (*shown)(const ExploredModel&);
  bool scattered = false;
};

report::FrontierChart chart_of(const Exploration& e, const ChartKind& kind) {
  const auto point_of = [&](const ExploredModel& m) {
    const std::string label = fmt::format(
        "{}: {:.2f} MB, KL {:.4f}, perplexity {:.2f}{}", m.name(), million(m.bytes), m.distance.kl_mean,
        m.distance.perplexity_other, m.speed ? fmt::format(", {:.2f} times the speed", m.speed->decode_ratio) : "");
    return report::FrontierPoint{kind.x(m), m.distance.kl_mean, label, m.knee};
  };
  std::vector<report::FrontierLine> lines;  // of all methods, so that each has its colour
  for (const ExploredModel& m : e.models) {
    auto line = std::ranges::find(lines, m.method, &report::FrontierLine::name);
    if (line == lines.end()) line = lines.insert(line, {m.method, static_cast<int>(lines.size()), {}});
    if (!kind.shown(m)) continue;
    if (line->points.empty()) line->points.push_back(point_of(e.full));
    line->points.push_back(point_of(m));
  }
  std::erase_if(lines, [](const report::FrontierLine& line) { return line.points.empty(); });
  return {kind.title, kind.x_name, "KL from the full model, nats", lines, kind.scattered};
}

std::vector<std::string> notes_of(const Exploration& e) {
  std::vector<std::string> notes{
      fmt::format("{}: calibrated on {} tokens, judged on {} held-out tokens ({}). Seed {}.", e.model,
                  e.calibration_tokens, e.held_out_tokens, e.held_out, e.seed),
      "The knee is the point furthest below the straight line between the ends of its line: of search by bytes, of "
      "skip by expert evaluations."};
  if (!e.timing().empty()) notes.push_back(e.timing());
  return notes;
}

}  // namespace

std::string ExploredModel::name() const {
  std::string text = method;
  if (keep_ratio) text += fmt::format(", {:.4g} % of the experts", 100 * *keep_ratio);
  if (draws > 1) text += fmt::format(", mean of {} draws", draws);
  if (skip_share) text += fmt::format(", {:.4g} % of the evaluations", 100 * *skip_share);
  return text;
}

std::string Exploration::timing() const {
  if (speed_run.rounds == 0) return "";
  return fmt::format(
      "Speed: medians of {} rounds on {} with {} {}. In a round the full model reads {} tokens in one piece and "
      "decodes "
      "{} one by one, right after it the other model does; (x) is the median of each round's own ratio.",
      speed_run.rounds, runtime::this_machine().cpu, threads, threads == 1 ? "thread" : "threads", speed_run.prompt,
      speed_run.decode);
}

ExploredModel mean_of(const std::vector<ExploredModel>& draws) {
  ExploredModel mean = draws.front();
  const auto of = [&](const auto& field) {
    double sum = 0;
    for (const ExploredModel& m : draws) sum += field(m);
    return sum / static_cast<double>(draws.size());
  };
  const auto kl = [](const ExploredModel& m) { return m.distance.kl_mean; };
  const auto [least, most] = std::ranges::minmax(draws, {}, kl);
  mean.draws = static_cast<int>(draws.size());
  mean.kl_spread = (kl(most) - kl(least)) / 2;
  mean.distance.kl_mean = of(kl);
  mean.distance.kl_p99 = of([](const ExploredModel& m) { return m.distance.kl_p99; });
  mean.distance.perplexity_other = of([](const ExploredModel& m) { return m.distance.perplexity_other; });
  mean.distance.top1_agreement = of([](const ExploredModel& m) { return m.distance.top1_agreement; });
  if (mean.accuracy) mean.accuracy = of([](const ExploredModel& m) { return *m.accuracy; });
  if (mean.loss) mean.loss = of([](const ExploredModel& m) { return *m.loss; });
  return mean;
}

void mark_knees(Exploration& e) {
  std::vector<ExploredModel*> pruned, skipping;
  for (ExploredModel& m : e.models) {
    if (m.method == "search") pruned.push_back(&m);
    if (m.method == "skip") skipping.push_back(&m);
  }
  mark_knee(
      pruned, [](const ExploredModel& m) { return static_cast<double>(m.bytes); }, e.full);
  mark_knee(
      skipping, [](const ExploredModel& m) { return m.evaluations; }, e.full);
}

Json json_of(const Exploration& e) {
  Json models = Json::array();
  for (const ExploredModel& m : e.models) models.push_back(model_json(m, e.full));
  Json speed = nullptr;
  if (e.speed_run.rounds > 0)
    speed = {{"rounds", e.speed_run.rounds},        {"prompt_tokens", e.speed_run.prompt},
             {"decode_tokens", e.speed_run.decode}, {"threads", e.threads},
             {"cpu", runtime::this_machine().cpu},  {"how", e.timing()}};
  return {{"calibration_tokens", e.calibration_tokens},
          {"held_out_tokens", e.held_out_tokens},
          {"held_out", e.held_out},
          {"seed", e.seed},
          {"speed", speed},
          {"full", model_json(e.full, e.full)},
          {"models", models}};
}

std::string table_of(const Exploration& e) {
  std::vector<std::vector<std::string>> rows = rows_of(e);
  rows.insert(rows.begin(), kColumns);
  std::vector<size_t> width(kColumns.size(), 0);
  for (const auto& row : rows)
    for (size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
  std::string text;
  for (const auto& row : rows) {
    std::string line = fmt::format("{:{}}", row[0], width[0]);
    for (size_t c = 1; c + 1 < row.size(); ++c) line += fmt::format("  {:>{}}", row[c], width[c]);
    text += line + (row.back().empty() ? "" : "  " + row.back()) + "\n";
  }
  for (const std::string& note : notes_of(e)) text += note + "\n";
  return text;
}

std::string page_of(const Exploration& e) {
  report::FrontierPage page{"The safe ratio", notes_of(e), {}, kColumns, rows_of(e), {}};
  page.charts.push_back(chart_of(
      e, {"What a smaller file costs", "MB of weights", [](const ExploredModel& m) { return million(m.bytes); },
          [](const ExploredModel& m) { return m.keep_ratio.has_value(); }}));
  page.charts.push_back(chart_of(e, {"What fewer evaluations cost", "% of the expert evaluations",
                                     [](const ExploredModel& m) { return 100 * m.evaluations; },
                                     [](const ExploredModel& m) { return m.skip_share.has_value(); }}));
  if (e.speed_run.rounds > 0)
    page.charts.push_back(chart_of(e, {"What speed costs", "speed of decoding, times the full model's",
                                       [](const ExploredModel& m) { return m.speed->decode_ratio; },
                                       [](const ExploredModel& m) { return m.speed.has_value(); }, true}));
  for (size_t i = 0; i < e.models.size(); ++i)
    if (e.models[i].knee) page.marked.push_back(i + 1);
  return report::frontier_page(page);
}

}  // namespace choir::cli
