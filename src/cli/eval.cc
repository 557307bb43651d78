#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/inputs.h"
#include "cli/terminal.h"
#include "eval/choice.h"
#include "eval/distance.h"
#include "eval/perplexity.h"
#include "eval/routing_report.h"

namespace choir::cli {
namespace {

using Json = nlohmann::ordered_json;

void print_flat(const Json& json) {
  for (const auto& [key, value] : json.items())
    if (value.is_primitive()) fmt::print("{:20} {}\n", key, value.dump());
}

Json choices(const Eval& o, const model::Model& model, const runtime::Bundle& bundle, base::Threads& threads) {
  const eval::Choices result = eval::answer(model, bundle.tokenizer(), eval::read_questions(o.choices), threads);
  return {{"items", result.items}, {"acc", result.acc}, {"acc_norm", result.acc_norm}, {"acc_bytes", result.acc_bytes}};
}

Json against(const Eval& o, const model::Model& model, const runtime::Bundle& bundle, base::Threads& threads) {
  const model::Model other(o.against);
  const auto documents = read_documents(o.text, bundle);
  const eval::Distance d = eval::distance(model, other, documents, {.context = o.context}, threads);
  return {{"kl_mean", d.kl_mean},
          {"kl_p99", d.kl_p99},
          {"top1_agreement", d.top1_agreement},
          {"perplexity", d.perplexity},
          {"perplexity_other", d.perplexity_other},
          {"tokens", d.tokens}};
}

Json text(const Eval& o, const model::Model& model, const runtime::Bundle& bundle, base::Threads& threads) {
  const auto documents = read_documents(o.text, bundle);
  const eval::Cut cut{.context = o.context};
  const eval::Perplexity p = eval::perplexity(model, documents, cut, threads);
  const eval::RoutingReport report = eval::routing_report(model, documents, cut, threads);
  int64_t chosen = 0, computed = 0;
  Json load = Json::array(), weight = Json::array();
  for (const eval::LayerRouting& layer : report.layers) {
    chosen += layer.choices;
    computed += layer.edges;
    Json shares = Json::array();
    for (const int64_t tokens : layer.load)
      shares.push_back(static_cast<double>(tokens) / static_cast<double>(std::max<int64_t>(1, layer.edges)));
    load.push_back(shares);
    weight.push_back(layer.mean_weight);
  }
  Json json{{"tokens", p.tokens}, {"nll", p.nll}, {"perplexity", p.perplexity()}, {"bits_per_byte", nullptr}};
  if (const auto bits = p.bits_per_byte()) json["bits_per_byte"] = *bits;
  json["skipped_share"] = 1 - static_cast<double>(computed) / static_cast<double>(std::max<int64_t>(1, chosen));
  json["load"] = load;
  json["mean_weight"] = weight;
  return json;
}

}  // namespace

void run(const Eval& o, const Common& common) {
  if (o.text.empty() && o.choices.empty())
    base::usage_error("nothing to measure on", "", "give --text FILE... or --choices FILE.jsonl");
  const runtime::Bundle bundle(o.model);
  base::Threads threads(common.threads);
  const model::Model model = o.router.empty() ? bundle.model : bundle.model.with_router(o.router);
  const Json result = !o.choices.empty()   ? choices(o, model, bundle, threads)
                      : !o.against.empty() ? against(o, model, bundle, threads)
                                           : text(o, model, bundle, threads);
  if (common.json)
    print_json(result);
  else
    print_flat(result);
}

}  // namespace choir::cli
