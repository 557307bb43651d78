#include "cli/speed.h"

#include <algorithm>

#include "runtime/session.h"

namespace choir::cli {
namespace {

struct Rates {
  double prefill, decode;  // tokens a second
};

Rates run_once(const model::Model& model, std::span<const int32_t> ids, const SpeedRun& plan, base::Threads& threads) {
  runtime::Session session(model, threads, plan.prompt + plan.decode);
  runtime::GenerateOptions options;
  options.most = plan.decode + 1;  // the last one is chosen and not read
  options.ignore_end = true;
  session.generate(ids.first(static_cast<size_t>(plan.prompt)), options);
  const runtime::Counts& counts = session.counts();
  const double prefill = static_cast<double>(counts.prompt_tokens) / std::max(counts.prompt_seconds, 1e-9);
  return {prefill, counts.decode_tokens_per_second()};
}

template <class Function>
double median_of(const std::vector<Rates>& one, const std::vector<Rates>& other, const Function& function) {
  std::vector<double> values;
  for (size_t i = 0; i < one.size(); ++i) values.push_back(function(one[i], other[i]));
  return median(std::move(values));
}

}  // namespace

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const size_t half = values.size() / 2;
  return values.size() % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}

Speed median_of(std::span<const Speed> speeds) {
  std::vector<double> prefill, decode;
  for (const Speed& speed : speeds) {
    prefill.push_back(speed.prefill);
    decode.push_back(speed.decode);
  }
  return {median(std::move(prefill)), median(std::move(decode)), 1, 1};
}

SpeedRun speed_run(const model::Model& model, std::span<const int32_t> ids, int rounds) {
  SpeedRun plan;
  plan.rounds = rounds;
  plan.prompt = std::min({plan.prompt, static_cast<int>(ids.size()), std::max(1, model.positions() / 2)});
  plan.decode = std::max(1, std::min(plan.decode, model.positions() - plan.prompt));
  return plan;
}

SpeedPair compare_speed(const model::Model& full, const model::Model& other, std::span<const int32_t> ids,
                        const SpeedRun& plan, base::Threads& threads) {
  std::vector<Rates> of_full, of_other;
  for (int round = 0; round <= plan.rounds; ++round) {
    of_full.push_back(run_once(full, ids, plan, threads));
    of_other.push_back(run_once(other, ids, plan, threads));
  }
  of_full.erase(of_full.begin());
  of_other.erase(of_other.begin());
  const auto prefill = [](const Rates& one, const Rates&) { return one.prefill; };
  const auto decode = [](const Rates& one, const Rates&) { return one.decode; };
  SpeedPair pair;
  pair.full = {median_of(of_full, of_full, prefill), median_of(of_full, of_full, decode), 1, 1};
  pair.other.prefill = median_of(of_other, of_other, prefill);
  pair.other.decode = median_of(of_other, of_other, decode);
  pair.other.prefill_ratio = median_of(of_other, of_full, [](auto& a, auto& b) { return a.prefill / b.prefill; });
  pair.other.decode_ratio = median_of(of_other, of_full, [](auto& a, auto& b) { return a.decode / b.decode; });
  return pair;
}

}  // namespace choir::cli
