#include "bench/peers.h"

namespace choir::bench {

void add_openblas(std::vector<Peer>&) {}

}  // namespace choir::bench
