#include "cli/tracing.h"

#include <cstdio>

#include "base/atomic_output.h"
#include "base/trace_file.h"

namespace choir::cli {
namespace {

base::Existing existing(const TraceFile& trace) {
  return trace.force ? base::Existing::kReplace : base::Existing::kRefuse;
}

}  // namespace

void check_trace(const TraceFile& trace) {
  if (!trace.path.empty()) base::check_output(trace.path, existing(trace), base::Kind::kFile);
}

std::unique_ptr<base::Profile> profile_for(const TraceFile& trace, base::Threads& threads) {
  return trace.path.empty() ? nullptr : std::make_unique<base::Profile>(threads);
}

void write_trace(const TraceFile& trace, const base::Profile& profile) {
  if (trace.path.empty()) return;
  base::write_trace(profile, trace.path, existing(trace));
  if (profile.dropped() > 0)
    std::fprintf(stderr, "%s holds the first %zu spans; %lld more spans and loops had no room\n", trace.path.c_str(),
                 profile.spans().size(), static_cast<long long>(profile.dropped()));
}

}  // namespace choir::cli
