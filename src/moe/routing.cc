#include "moe/routing.h"

#include <cmath>

namespace choir::moe {

int Tokens::counted() const {
  int padded = 0;
  for (const uint8_t p : padding) padded += p != 0;
  return x.rows - padded;
}

void shift_rows(const Context& context, std::span<const float> shift, float sign, Matrix<float> key) {
  each_token(context, [&](int t) {
    for (int e = 0; e < key.cols; ++e)
      if (key[t][e] != -HUGE_VALF) key[t][e] += sign * shift[static_cast<size_t>(e)];
  });
}

}  // namespace choir::moe
