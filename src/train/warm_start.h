// Parameters that begin as those of another model.
#pragma once

#include <string>

#include "train/parameters.h"

namespace choir::train {

struct WarmStart {
  std::string directory;  // its safetensors, and its config.json where there is one (train/warm_source.h)
  double noise = 0;       // added to repeated experts: deviation relative to the tensor's root mean square
  uint64_t seed = 0;      // of the noise
};

// Copies the source's tensors over initialised parameters: those of equal name and shape; expert e from the source's
// expert e mod their number, the feed-forward part of a dense layer being one expert; a gate where experts and score
// word are the source's, the router's own numbers where the whole router is. An expert of the source that is narrower
// fills a part, and the rest answers nothing at first. Returns one line about what was copied and what begins anew.
// Throws Error (input) when the source's experts are wider or more than ours, when its heads are others, when a tensor
// has another type or holds a number that is not finite, or when nothing fits. The line also names other constants of
// the source, and its head where the model's is tied.
std::string warm_start(const WarmStart& from, const Config& config, Parameters& parameters);

}  // namespace choir::train
