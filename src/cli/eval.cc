#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/inputs.h"
#include "cli/skipped.h"
#include "cli/terminal.h"
#include "eval/choice.h"
#include "eval/distance.h"
#include "eval/perplexity.h"
#include "eval/routing_report.h"

namespace choir::cli {
namespace {

using Json = nlohmann::ordered_json;
using Counts = std::vector<model::ExpertCounts>;  // [L]

void print_flat(const Json& json) {
  for (const auto& [key, value] : json.items())
    if (value.is_primitive()) fmt::print("{:20} {}\n", key, value.dump());
}

// A call: its options, and the model with the router and the skipping that they ask for.
struct Work {
  const Eval& o;
  const runtime::Bundle& bundle;
  const model::Model& model;
  base::Threads& threads;
  Counts& counts;
};

Json choices(const Work& w) {
  const auto questions = eval::read_questions(w.o.choices);
  const eval::Choices result =
      eval::answer(w.model, w.bundle.tokenizer(), questions, w.threads, model::counting(w.counts));
  return {{"items", result.items}, {"acc", result.acc}, {"acc_norm", result.acc_norm}, {"acc_bytes", result.acc_bytes}};
}

Json against(const Work& w) {
  const model::Model other = ready_to_run(runtime::Bundle(w.o.against, use_for(w.o.exact)).model, w.o.exact, w.threads);
  const auto documents = read_documents(w.o.text, w.bundle);
  const eval::Distance d =
      eval::distance(w.model, other, documents, {.context = w.o.context}, w.threads, {model::counting(w.counts), {}});
  return {{"kl_mean", d.kl_mean},
          {"kl_p99", d.kl_p99},
          {"top1_agreement", d.top1_agreement},
          {"perplexity", d.perplexity},
          {"perplexity_other", d.perplexity_other},
          {"tokens", d.tokens}};
}

Json text(const Work& w) {
  const auto documents = read_documents(w.o.text, w.bundle);
  const eval::Cut cut{.context = w.o.context};
  const eval::Perplexity p = eval::perplexity(w.model, documents, cut, w.threads);
  const eval::RoutingReport report = eval::routing_report(w.model, documents, cut, w.threads);
  w.counts.clear();
  Json load = Json::array(), weight = Json::array();
  for (const eval::LayerRouting& layer : report.layers) {
    w.counts.push_back(layer.counts);
    Json shares = Json::array();
    for (const int64_t tokens : layer.load)
      shares.push_back(static_cast<double>(tokens) / static_cast<double>(std::max<int64_t>(1, layer.counts.run)));
    load.push_back(shares);
    weight.push_back(layer.mean_weight);
  }
  Json json{{"tokens", p.tokens}, {"nll", p.nll}, {"perplexity", p.perplexity()}, {"bits_per_byte", nullptr}};
  if (const auto bits = p.bits_per_byte()) json["bits_per_byte"] = *bits;
  json["load"] = load;
  json["mean_weight"] = weight;
  return json;
}

}  // namespace

void run(const Eval& o, const Common& common) {
  if (o.text.empty() && o.choices.empty())
    base::usage_error("nothing to measure on", "", "give --text FILE... or --choices FILE.jsonl");
  const runtime::Bundle bundle(o.model, use_for(o.exact));
  base::Threads threads(common.threads, common.placement());
  const model::Model asked =
      skipping_as_asked(o.skip, o.router.empty() ? bundle.model : bundle.model.with_router(o.router));
  const model::Model model = ready_to_run(asked, o.exact, threads);
  Counts counts(model.config().layers.size());
  const Work work{o, bundle, model, threads, counts};
  Json result = !o.choices.empty() ? choices(work) : !o.against.empty() ? against(work) : text(work);
  add_skipped(model, counts, result);
  if (common.json) return print_json(result);
  print_flat(result);
  tell_skipped(counts);
}

}  // namespace choir::cli
