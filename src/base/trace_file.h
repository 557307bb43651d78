// A profile as a file that chrome://tracing and Perfetto show.
#pragma once

#include <string>

#include "base/atomic_output.h"
#include "base/profile.h"

namespace choir::base {

// Trace Event Format, JSON: one complete event ("ph": "X") for each span on a track of its own and for each busy time
// on the track of its thread, times in microseconds. Throws as AtomicFile does.
void write_trace(const Profile& profile, const std::string& path, Existing existing);

}  // namespace choir::base
