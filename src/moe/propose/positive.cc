#include "moe/propose/positive.h"

#include "moe/propose/ranking.h"

namespace choir::moe {

void Positive::propose(const Context& context, Matrix<const float> key, std::vector<int32_t>& proposed) const {
  empty_slots(key.rows, key.cols, proposed);
  each_row<int32_t>(context, key, [&](int t, std::span<int32_t> room) {
    Ranking ranking(room, key.row(t), 0);
    for (int32_t& slot : slots_of(proposed, key.cols, t).first(ranking.left().size())) slot = ranking.next();
  });
}

}  // namespace choir::moe
