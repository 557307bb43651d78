#include "base/rng.h"

#include <bit>
#include <cmath>
#include <numbers>

namespace choir::base {

Rng::Rng(uint64_t seed) {
  for (uint64_t& word : state_) {
    uint64_t z = (seed += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    word = z ^ (z >> 31);
  }
}

uint64_t Rng::next() {
  auto& s = state_;
  const uint64_t result = std::rotl(s[1] * 5, 7) * 9;
  const uint64_t t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = std::rotl(s[3], 45);
  return result;
}

double Rng::uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

uint64_t Rng::below(uint64_t bound) {
  const uint64_t rejected = -bound % bound;  // the first 2^64 mod bound values would be favoured
  uint64_t value = next();
  while (value < rejected) value = next();
  return value % bound;
}

// Box and Muller (1958), one of the pair: no state beyond the generator's own.
float Rng::normal() {
  const double radius = std::sqrt(-2 * std::log(1 - uniform()));
  return static_cast<float>(radius * std::cos(2 * std::numbers::pi * uniform()));
}

}  // namespace choir::base
