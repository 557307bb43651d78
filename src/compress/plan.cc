#include "compress/plan.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "compress/kept_counts.h"
#include "compress/prune.h"
#include "compress/strict_json.h"

namespace choir::compress {
namespace {

using io::Json;
using OrderedJson = nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr int kMostExperts = 4096;

std::string at(const std::string& where, const char* list, size_t i) {
  return where + ": " + list + "[" + std::to_string(i) + "]";
}

bool rises(const std::vector<int>& numbers) {
  return std::ranges::adjacent_find(numbers, std::greater_equal()) == numbers.end();
}

PlanSet set_of(const Json& json, int experts, const std::string& where) {
  only_keys(json, {"keep", "loss"}, where);
  PlanSet set;
  set.keep = numbers_at(json, "keep", 0, experts - 1, where);
  if (set.keep.empty() && experts > 0) base::input_error("a set without experts", where, "name those that stay");
  std::vector<int> sorted = set.keep;
  std::ranges::sort(sorted);
  if (!rises(sorted)) {
    const int twice = *std::ranges::adjacent_find(sorted);
    base::input_error("expert " + std::to_string(twice) + " is kept twice", where + ": field \"keep\"",
                      "name each expert once");
  }
  if (sorted != set.keep)
    base::input_error("kept experts out of order", where + ": field \"keep\"", "list them in ascending order");
  const io::Fields fields(json, where);
  if (fields.has("loss")) set.loss = fields.get_number("loss", -1e300, 1e300);
  return set;
}

PlanLayer layer_of(const Json& json, size_t number, const std::string& where) {
  only_keys(json, {"layer", "experts", "original", "sets"}, where);
  const io::Fields fields(json, where);
  fields.get_int("layer", static_cast<int64_t>(number), static_cast<int64_t>(number));
  PlanLayer layer;
  layer.experts = static_cast<int>(fields.get_int("experts", 0, kMostExperts));  // 0: a dense layer
  layer.original = numbers_at(json, "original", 0, kMostExperts - 1, where);
  if (static_cast<int>(layer.original.size()) != layer.experts || !rises(layer.original))
    base::input_error("not a rising number for each of " + std::to_string(layer.experts) + " experts",
                      where + ": field \"original\"", "give the experts' numbers in the first, never pruned model");
  const Json& sets = array_at(json, "sets", where);
  for (size_t i = 0; i < sets.size(); ++i) layer.sets.push_back(set_of(sets[i], layer.experts, at(where, "sets", i)));
  for (size_t i = 1; i < layer.sets.size(); ++i)
    if (layer.sets[i].keep.size() <= layer.sets[i - 1].keep.size())
      base::input_error("counts of experts do not rise", at(where, "sets", i), "one set for each count, smaller first");
  return layer;
}

const PlanSet* set_with(const PlanLayer& layer, int count) {
  const auto found =
      std::ranges::find(layer.sets, static_cast<size_t>(count), [](const PlanSet& set) { return set.keep.size(); });
  return found == layer.sets.end() ? nullptr : &*found;
}

std::string counts_of(const PlanLayer& layer) {
  std::string list;
  for (const PlanSet& set : layer.sets) list += (list.empty() ? "" : ", ") + std::to_string(set.keep.size());
  return list;
}

// What must hold between the fields.
void check_whole(const Plan& plan, const std::string& where) {
  if (plan.layers.empty()) base::input_error("a plan without layers", where, "name every layer of the model");
  if (plan.counts.size() != plan.layers.size())
    base::input_error(
        std::to_string(plan.counts.size()) + " counts for " + std::to_string(plan.layers.size()) + " layers",
        where + ": field \"counts\"", "give one for each layer");
  for (size_t l = 0; l < plan.layers.size(); ++l) {
    const PlanLayer& layer = plan.layers[l];
    if (!set_with(layer, plan.counts[l]))
      base::input_error("no set of " + std::to_string(plan.counts[l]) + " experts", at(where, "layers", l),
                        "the layer has sets of " + counts_of(layer));
    for (size_t i = 1; plan.nested && i < layer.sets.size(); ++i)
      if (!std::ranges::includes(layer.sets[i].keep, layer.sets[i - 1].keep))
        base::input_error("a set lacks experts of the smaller one before it", at(at(where, "layers", l), "sets", i),
                          "the plan says it is nested");
  }
}

uint64_t seed_of(const Json& json, const std::string& where) {
  const auto found = json.find("seed");
  if (found == json.end() || !found->is_number_unsigned())
    base::input_error("a seed is missing", where + ": field \"seed\"", "it must be a whole number, 0 or more");
  return found->get<uint64_t>();
}

OrderedJson json_of(const PlanLayer& layer, size_t number) {
  OrderedJson json{
      {"layer", number}, {"experts", layer.experts}, {"original", layer.original}, {"sets", OrderedJson::array()}};
  for (const PlanSet& set : layer.sets)
    json["sets"].push_back({{"keep", set.keep}, {"loss", set.loss ? OrderedJson(*set.loss) : OrderedJson()}});
  return json;
}

// A line for each set, so that people can read it.
std::string text_of(const Plan& plan) {
  const OrderedJson head{{"choir_plan", kVersion}, {"fingerprint", plan.fingerprint}, {"calibration", plan.calibration},
                         {"tokens", plan.tokens},  {"criterion", plan.criterion},     {"objective", plan.objective},
                         {"seed", plan.seed},      {"nested", plan.nested},           {"counts", plan.counts}};
  std::string text = "{\n";
  for (const auto& [key, value] : head.items()) text += "  \"" + key + "\": " + value.dump() + ",\n";
  text += "  \"layers\": [";
  for (size_t l = 0; l < plan.layers.size(); ++l) {
    OrderedJson layer = json_of(plan.layers[l], l);
    const OrderedJson sets = layer["sets"];
    layer.erase("sets");
    std::string line = layer.dump();
    line.pop_back();
    text += (l ? ",\n    " : "\n    ") + line + ",\n     \"sets\": [";
    for (size_t i = 0; i < sets.size(); ++i) text += (i ? ",\n       " : "\n       ") + sets[i].dump();
    text += "]}";
  }
  return text + "]\n}\n";
}

std::vector<int> original_numbers(const model::LayerConfig& layer) {
  if (!layer.kept.empty()) return layer.kept;
  std::vector<int> numbers(static_cast<size_t>(layer.experts));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

}  // namespace

Plan empty_plan(const Model& model, const std::string& fingerprint) {
  Plan plan;
  plan.fingerprint = fingerprint;
  for (const model::LayerConfig& layer : model.config().layers)
    plan.layers.push_back({layer.experts, original_numbers(layer), {}});
  return plan;
}

void write_plan(const std::string& path, const Plan& plan, base::Existing existing) {
  const std::string text = text_of(plan);
  CHOIR_CHECK(parse_plan(text, path) == plan, "a plan says the same when it is read again");
  base::write_file(path, text, existing);
}

Plan parse_plan(std::string_view text, const std::string& where) {
  const Json json = io::parse_json(text, where);
  only_keys(json,
            {"choir_plan", "fingerprint", "calibration", "tokens", "criterion", "objective", "seed", "nested", "counts",
             "layers"},
            where);
  const io::Fields fields(json, where);
  fields.get_int("choir_plan", kVersion, kVersion);
  Plan plan;
  plan.fingerprint = fields.get_string("fingerprint");
  plan.calibration = fields.get_string("calibration");
  plan.tokens = fields.get_int("tokens", 0, INT64_MAX);
  plan.criterion = fields.get_string("criterion");
  plan.objective = fields.get_string("objective");
  plan.seed = seed_of(json, where);
  plan.nested = fields.get_bool("nested");
  plan.counts = numbers_at(json, "counts", 0, kMostExperts, where);
  const Json& layers = array_at(json, "layers", where);
  for (size_t l = 0; l < layers.size(); ++l) plan.layers.push_back(layer_of(layers[l], l, at(where, "layers", l)));
  check_whole(plan, where);
  return plan;
}

Plan read_plan(const std::string& path) { return parse_plan(base::read_file(path), path); }

void check_plan(const Plan& plan, const Model& model, const std::string& fingerprint, const std::string& where) {
  if (plan.fingerprint != fingerprint)
    base::input_error("the plan is for another model: fingerprint " + plan.fingerprint.substr(0, 40), where,
                      "this model has " + fingerprint + "; make a plan for it");
  const model::Config& config = model.config();
  if (static_cast<int>(plan.layers.size()) != config.depth())
    base::input_error("a plan for " + std::to_string(plan.layers.size()) + " layers", where,
                      "the model has " + std::to_string(config.depth()));
  for (size_t l = 0; l < plan.layers.size(); ++l) {
    const PlanLayer& layer = plan.layers[l];
    const std::string place = at(where, "layers", l);
    if (layer.experts != config.layers[l].experts || layer.original != original_numbers(config.layers[l]))
      base::input_error("a plan for " + std::to_string(layer.experts) + " experts, or for others", place,
                        "the layer has " + std::to_string(config.layers[l].experts));
    if (config.layers[l].dense()) continue;
    const auto rule = model.router(static_cast<int>(l)).subset_rule();
    if (!rule || config.layers[l].idle() > 0)
      base::input_error("the router is not one that experts can be taken from", place, "such layers have no plan");
    for (size_t i = 0; i < layer.sets.size(); ++i) {
      const std::vector<int>& keep = layer.sets[i].keep;
      if (const std::string fault = misfit(*rule, layer.experts, static_cast<int>(keep.size())); !fault.empty())
        base::input_error(fault, at(place, "sets", i), "make the plan anew for this router");
      std::vector<int> each(static_cast<size_t>(rule->groups), 0);
      for (const int e : keep) ++each[static_cast<size_t>(e / (layer.experts / rule->groups))];
      if (!std::ranges::equal(each, std::vector(each.size(), each[0])))
        base::input_error("the router's " + std::to_string(rule->groups) + " groups keep unequal numbers of experts",
                          at(place, "sets", i), "keep the same number in each");
    }
  }
}

std::vector<std::vector<int>> keep_lists(const Plan& plan, std::vector<int> counts) {
  if (counts.empty()) counts = plan.counts;
  if (counts.size() == 1) {
    const int count = counts[0];
    counts.clear();
    for (const PlanLayer& layer : plan.layers) counts.push_back(layer.experts > 0 ? count : 0);
  }
  if (counts.size() != plan.layers.size())
    base::usage_error(std::to_string(counts.size()) + " numbers of experts to keep", "keep",
                      "give one, or one for each of the " + std::to_string(plan.layers.size()) + " layers");
  std::vector<std::vector<int>> keep;
  for (size_t l = 0; l < counts.size(); ++l) {
    const PlanSet* set = set_with(plan.layers[l], counts[l]);
    if (!set)
      base::usage_error("the plan has no set of " + std::to_string(counts[l]) + " experts",
                        "layer " + std::to_string(l), "it has sets of " + counts_of(plan.layers[l]));
    keep.push_back(set->keep);
  }
  return keep;
}

Model planned_model(const Model& model, const std::vector<std::vector<int>>& keep) {
  const Model plain = model.with_admission("all");
  return plain.with_layers(pruned_config(plain.config(), keep), keep);
}

}  // namespace choir::compress
