#include "moe/propose/positive.h"

#include "moe/propose/ranking.h"

namespace choir::moe {

void Positive::propose(const Context& context, Matrix<const float> key, std::vector<int32_t>& proposed) const {
  empty_slots(key.rows, key.cols, proposed);
  each_row<Ranking>(context, key, [&](int t, Ranking& ranking) {
    ranking.begin(key.row(t));
    for (int32_t& slot : slots_of(proposed, key.cols, t)) {
      const int32_t e = ranking.next();
      if (e < 0 || !(key[t][e] > 0)) return;
      slot = e;
    }
  });
}

}  // namespace choir::moe
