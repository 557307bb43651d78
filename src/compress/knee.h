// Where a curve bends.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

namespace choir::compress {

// The point furthest below the straight line between the first point and the last, both axes scaled to 1
// (docs/compress.md, C35); of equally far ones the last. x rises. Nothing where there are fewer than three points, the
// last is not below the first, or no point is below the line.
std::optional<size_t> knee(std::span<const double> x, std::span<const double> y);

}  // namespace choir::compress
