#include "moe/admit/fifo.h"

#include <algorithm>

#include "moe/admit/affinity.h"

namespace choir::moe {

Fifo Fifo::read(Arguments& arguments) {
  Fifo word;
  word.slot_major = arguments.name("order", {"token", "slot"}) == "slot";
  word.capacity = Capacity::read(arguments.phrase("capacity"), arguments);
  return word;
}

void Fifo::admit(const Context& context, Routing& routing) const {
  if (context.rule == Rule::kDecode) return;
  const size_t rows = static_cast<size_t>(context.tokens.rows()), choices = rows ? routing.chosen.size() / rows : 0;
  std::vector<int> room = capacity.of_experts(context, static_cast<int>(choices));
  routing.capacity = std::ranges::max(room);
  for (size_t i = 0; i < routing.chosen.size(); ++i) {
    int32_t& e = routing.chosen[slot_major ? i % rows * choices + i / rows : i];
    if (e >= 0 && --room[static_cast<size_t>(e)] < 0) e = -1;
  }
}

void Fifo::observe(const Context& context, const Routing& routing, std::span<float> sums) const {
  if (context.rule == Rule::kDecode || capacity.state_size() == 0) return;
  base::Frame frame(context.threads);
  capacity.observe(context, routing, affinities(Affinity::kCosine, context, routing, frame), sums);
}

}  // namespace choir::moe
