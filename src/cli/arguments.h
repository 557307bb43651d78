// From argc and argv to a Call.
#pragma once

#include <optional>

#include "cli/options.h"

namespace choir::cli {

// Nothing when help was asked for: it has been printed. Throws base::Error (usage) for a wrong call.
std::optional<Call> parse_arguments(int argc, const char* const* argv);

}  // namespace choir::cli
