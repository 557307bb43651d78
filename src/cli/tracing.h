// --trace FILE: what a verb computed, and when.
#pragma once

#include <memory>

#include "base/profile.h"
#include "cli/options.h"

namespace choir::cli {

// Before long work: throws Error (usage) unless the file, where one was asked for, may be written.
void check_trace(const TraceFile& trace);

// Watches the threads where a file was asked for; otherwise null.
std::unique_ptr<base::Profile> profile_for(const TraceFile& trace, base::Threads& threads);

// Writes the file where one was asked for, and says on stderr what the profile has no room for.
void write_trace(const TraceFile& trace, const base::Profile& profile);

}  // namespace choir::cli
