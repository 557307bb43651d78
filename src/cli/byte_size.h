// Sizes as people write them.
#pragma once

#include <cstdint>
#include <string>

namespace choir::cli {

// "6GB", "900 MB", "4.5GiB", or a share of the present size: "0.5". Units of 1000 or, with an i, of 1024, in capitals
// or not. Throws Error (usage), naming --budget, for anything else.
int64_t byte_size(const std::string& size, int64_t present);

}  // namespace choir::cli
