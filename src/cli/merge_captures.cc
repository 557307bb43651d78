#include "compress/merge_captures.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/options.h"
#include "cli/terminal.h"

namespace choir::cli {

void run(const MergeCaptures& o, const Common& common) {
  const compress::CaptureDirectory merged = compress::merge_captures(o.from, o.out);
  if (common.json) return print_json({{"layers", merged.info().depth()}, {"tokens", merged.info().tokens()}});
  fmt::print("{}  {} tokens, {} layers\n", o.out, merged.info().tokens(), merged.info().depth());
}

}  // namespace choir::cli
