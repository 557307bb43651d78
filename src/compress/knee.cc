#include "compress/knee.h"

#include "base/error.h"

namespace choir::compress {

std::optional<size_t> knee(std::span<const double> x, std::span<const double> y) {
  CHOIR_CHECK(x.size() == y.size(), "a value for each place");
  if (x.size() < 3 || !(y.front() > y.back())) return {};
  std::optional<size_t> bend;
  double furthest = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double along = (x[i] - x.front()) / (x.back() - x.front());
    const double below = 1 - along - (y[i] - y.back()) / (y.front() - y.back());
    if (below <= 0 || below < furthest) continue;
    furthest = below;
    bend = i;
  }
  return bend;
}

}  // namespace choir::compress
