#include "cli/operator_table.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/speed.h"

namespace choir::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kOutside = "outside operators";

// Of measured seconds and the work of one call.
class Rows {
 public:
  Rows(const base::PhaseTotal& phase, const runtime::Ceilings& ceilings, int threads)
      : calls_(static_cast<double>(phase.calls)), whole_(phase.seconds), ceilings_(ceilings), threads_(threads) {}

  OperatorRow row(const base::OperatorTotal& total) const {
    const auto of_call = [&](int64_t sum) { return static_cast<double>(sum) / calls_; };
    OperatorRow row;
    row.name = total.name;
    row.calls = of_call(total.calls);
    row.seconds = total.seconds / calls_;
    row.share = ratio(total.seconds, whole_);
    row.weight_bytes = of_call(total.work.weights);
    row.bytes = of_call(total.work.bytes());
    row.operations = of_call(total.work.operations + total.work.byte_operations);
    row.share_of_bandwidth = ratio(row.bytes / ceilings_.read_bytes, row.seconds);
    row.share_of_peak = ratio(of_call(total.work.operations) / ceilings_.operations +
                                  of_call(total.work.byte_operations) / ceilings_.byte_operations,
                              row.seconds);
    row.busy = ratio(total.busy, threads_ * total.seconds);
    return row;
  }

 private:
  static double ratio(double part, double whole) { return whole > 0 ? part / whole : 0; }

  double calls_, whole_;
  runtime::Ceilings ceilings_;
  int threads_;
};

// Of all rounds the median of one measured number of one row.
template <class RowOf>
OperatorRow median_row(std::span<const OperatorTable> rounds, const RowOf& row_of) {
  OperatorRow result = row_of(rounds[0]);
  for (double OperatorRow::*number : {&OperatorRow::seconds, &OperatorRow::share, &OperatorRow::share_of_bandwidth,
                                      &OperatorRow::share_of_peak, &OperatorRow::busy}) {
    std::vector<double> values;
    for (const OperatorTable& round : rounds) values.push_back(row_of(round).*number);
    result.*number = median(std::move(values));
  }
  return result;
}

std::string percent(double share) { return fmt::format("{:.1f}%", 100 * share); }

// "-" where there is nothing to tell.
std::string rate(double amount, double seconds) {
  return amount > 0 && seconds > 0 ? fmt::format("{:.1f}", amount / seconds / 1e9) : "-";
}
std::string share_of(double amount, double share) { return amount > 0 ? percent(share) : "-"; }

std::string line(const OperatorRow& row) {
  return fmt::format("{:<22}{:>10.3f}{:>8}{:>11.3f}{:>8}{:>9}{:>11.3f}{:>9}{:>9}{:>8}\n", row.name, 1e3 * row.seconds,
                     percent(row.share), row.bytes / 1e6, rate(row.bytes, row.seconds),
                     share_of(row.bytes, row.share_of_bandwidth), row.operations / 1e9,
                     rate(row.operations, row.seconds), share_of(row.operations, row.share_of_peak),
                     share_of(row.busy, row.busy));
}

Json json_of_row(const OperatorRow& row) {
  return {{"operator", row.name},
          {"calls", row.calls},
          {"seconds", row.seconds},
          {"share", row.share},
          {"weight_bytes", row.weight_bytes},
          {"bytes", row.bytes},
          {"operations", row.operations},
          {"share_of_bandwidth", row.share_of_bandwidth},
          {"share_of_peak", row.share_of_peak},
          {"busy", row.busy}};
}

}  // namespace

OperatorTable table_of(const base::PhaseTotal& phase, const runtime::Ceilings& ceilings, int threads) {
  const Rows rows(phase, ceilings, threads);
  OperatorTable table{phase.name, {}, {}, {}};
  base::OperatorTotal all{.name = phase.name, .calls = phase.calls, .seconds = phase.seconds};
  for (const base::OperatorTotal& total : phase.operators) {
    table.operators.push_back(rows.row(total));
    all.work += total.work;
    all.busy += total.busy;
  }
  table.outside = rows.row({.name = kOutside, .seconds = phase.uncovered()});
  table.all = rows.row(all);
  return table;
}

OperatorTable median_of(std::span<const OperatorTable> rounds) {
  OperatorTable result{rounds[0].phase, {}, {}, {}};
  for (size_t i = 0; i < rounds[0].operators.size(); ++i)
    result.operators.push_back(median_row(rounds, [&](const OperatorTable& round) {
      CHOIR_CHECK(round.operators.size() == rounds[0].operators.size(), "rounds with different operators");
      return round.operators[i];
    }));
  result.outside = median_row(rounds, [](const OperatorTable& round) { return round.outside; });
  result.all = median_row(rounds, [](const OperatorTable& round) { return round.all; });
  return result;
}

std::string text_of(const OperatorTable& table) {
  std::string text = fmt::format("{:<22}{:>10}{:>8}{:>11}{:>8}{:>9}{:>11}{:>9}{:>9}{:>8}\n", table.phase, "ms", "share",
                                 "MB", "GB/s", "of read", "Gop", "Gop/s", "of peak", "busy");
  for (const OperatorRow& row : table.operators) text += line(row);
  OperatorRow all = table.all;
  all.name = "all";
  return text + line(table.outside) + line(all);
}

Json json_of(const OperatorTable& table) {
  Json list = Json::array();
  for (const OperatorRow& row : table.operators) list.push_back(json_of_row(row));
  list.push_back(json_of_row(table.outside));
  return list;
}

}  // namespace choir::cli
