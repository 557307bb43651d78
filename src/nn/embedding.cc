#include "nn/embedding.h"

#include <algorithm>

namespace choir::nn {

void embedding_forward(std::span<const int32_t> ids, const Weight& table, Matrix<float> out) {
  for (size_t i = 0; i < ids.size(); ++i) tensor::widen(table.row(ids[i]), out.row(static_cast<int>(i)));
}

// Each piece owns some columns of every row, so that no two threads add to one number.
void embedding_backward(std::span<const int32_t> ids, Matrix<const float> dout, Matrix<float> dtable,
                        Threads& threads) {
  constexpr int kCols = 64;
  threads.for_each((dout.cols + kCols - 1) / kCols, [&](int piece) {
    const int begin = piece * kCols, end = std::min(dout.cols, begin + kCols);
    for (size_t i = 0; i < ids.size(); ++i) {
      const float* from = dout[static_cast<int>(i)];
      float* to = dtable[ids[i]];
      for (int d = begin; d < end; ++d) to[d] += from[d];
    }
  });
}

}  // namespace choir::nn
