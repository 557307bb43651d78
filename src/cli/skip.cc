#include "compress/skip.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/inputs.h"
#include "cli/terminal.h"

namespace choir::cli {

void run(const Skip& o, const Common& common) {
  check_model_output(o.out, o.model, o.force);
  const runtime::Bundle bundle(o.model);
  bundle.model.check_finite();
  const auto batches = calibration_batches(o.calibration, bundle);
  base::Threads threads(common.threads);
  ProgressLine progress;
  const compress::SkipResult result =
      compress::calibrate_skipping(bundle.model, batches, threads, [&](int done, int total) {
        progress.show(fmt::format("calibrating {}/{}", done, total));
        if (interrupted()) throw base::Error(base::Fault::kInterrupted, "interrupted", o.out, "nothing was written");
      });
  write_model(compress::skipping_model(bundle.model, result), o.model, o.out, o.force);
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const compress::LayerSkip& layer : result.layers) {
    layers.push_back({{"layer", layer.layer},
                      {"beta", layer.beta},
                      {"skipped_share", layer.skipped_share},
                      {"mean_ratio", layer.mean_ratio}});
    if (!common.json)
      fmt::print("layer {:3}  beta {:.4f}  skips {:.1f} % of the second experts\n", layer.layer, layer.beta,
                 100 * layer.skipped_share);
  }
  if (common.json) print_json({{"layers", layers}});
}

}  // namespace choir::cli
