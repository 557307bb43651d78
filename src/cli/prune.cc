#include "compress/prune.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/inputs.h"
#include "cli/terminal.h"

namespace choir::cli {
namespace {

using Json = nlohmann::ordered_json;

compress::Method method(const std::string& name, const model::Config& config) {
  if (name.empty() && !compress::exact_fits(config)) {
    fmt::print(stderr, "the exact search does not fit these layers: experts are kept by frequency\n");
    return compress::Method::kFrequency;
  }
  if (name == "random") return compress::Method::kRandom;
  if (name == "frequency") return compress::Method::kFrequency;
  return compress::Method::kExact;
}

Json layer_json(const compress::LayerChoice& layer, bool all_losses) {
  Json json{{"layer", layer.layer}, {"keep", layer.keep}, {"loss", nullptr}, {"candidates", layer.candidates}};
  if (layer.loss) json["loss"] = *layer.loss;
  json["coverage"] = layer.coverage;
  if (!all_losses) return json;
  json["losses"] = Json::array();
  for (const compress::SubsetLoss& loss : layer.losses)
    json["losses"].push_back(Json::array({loss.dropped, loss.loss}));
  return json;
}

void warn_of_rare(const compress::LayerChoice& layer) {
  for (const int e : layer.rarely_seen)
    fmt::print(stderr, "layer {}: expert {} saw only {} calibration tokens\n", layer.layer, e, layer.coverage[e]);
}

}  // namespace

void run(const Prune& o, const Common& common) {
  if (o.explore.asked) return explore(o, common);
  check_model_output(o.out, o.model, o.force);
  const runtime::Bundle bundle(o.model);
  compress::PruneOptions options;
  options.keep = o.keep;
  options.progressive = o.progressive;
  options.all_losses = o.all_losses;
  options.seed = common.seed;
  options.method = method(o.method, bundle.model.config());
  compress::check_prune(bundle.model.config(), options);
  bundle.model.check_finite();
  const auto batches = calibration_batches(o.calibration, bundle);
  base::Threads threads(common.threads);
  ProgressLine progress;
  const compress::PruneResult result =
      compress::prune(bundle.model, batches, options, threads, [&](int done, int total) {
        progress.show(fmt::format("calibrating {}/{}", done, total));
        if (interrupted()) throw base::Error(base::Fault::kInterrupted, "interrupted", o.out, "nothing was written");
      });
  write_model(compress::pruned_model(bundle.model, result), o.model, o.out, o.force);
  Json layers = Json::array();
  for (const compress::LayerChoice& layer : result.layers) {
    warn_of_rare(layer);
    layers.push_back(layer_json(layer, o.all_losses));
    if (!common.json)
      fmt::print("layer {:3}  keeps {}  loss {}  of {} candidates\n", layer.layer, Json(layer.keep).dump(),
                 layer.loss ? fmt::format("{:.6g}", *layer.loss) : "not measured", layer.candidates);
  }
  if (common.json)
    print_json({{"layers", layers}, {"seconds", result.seconds}});
  else
    fmt::print("{}  ({:.1f} s)\n", o.out, result.seconds);
}

}  // namespace choir::cli
