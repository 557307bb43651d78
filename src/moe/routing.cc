#include "moe/routing.h"

namespace choir::moe {

int Tokens::counted() const {
  int padded = 0;
  for (const uint8_t p : padding) padded += p != 0;
  return x.rows - padded;
}

}  // namespace choir::moe
