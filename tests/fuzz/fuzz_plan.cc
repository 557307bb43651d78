// Any bytes are a sound pruning plan, or an input error.
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "compress/plan.h"

using namespace choir;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  compress::Plan plan;
  try {
    plan = compress::parse_plan({reinterpret_cast<const char*>(data), size}, "input");
  } catch (const base::Error& error) {
    CHOIR_CHECK(error.fault == base::Fault::kInput && !error.where.empty() && !error.hint.empty(), error.message);
    return 0;
  }
  CHOIR_CHECK(plan.counts.size() == plan.layers.size(), "counts");
  const auto keep = compress::keep_lists(plan, {});
  for (size_t l = 0; l < keep.size(); ++l)
    for (const int e : keep[l]) CHOIR_CHECK(e >= 0 && e < plan.layers[l].experts, "an expert of the layer");
  return 0;
}
