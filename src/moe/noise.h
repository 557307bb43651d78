// Random numbers that are a function of a seed and a place, so that the backward sees those of the forward and any
// thread may ask for any of them.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace choir::moe {

// splitmix64's finisher (Steele, Lea and Flood, 2014) over the place's offset in the seed's stream.
inline uint64_t scramble(uint64_t seed, uint64_t place) {
  uint64_t z = seed + (place + 1) * 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// [0, 1)
inline float uniform_at(uint64_t seed, uint64_t place) {
  return static_cast<float>(scramble(seed, place) >> 40) * 0x1p-24f;
}

// Mean 0, deviation 1 (Box and Muller).
inline float normal_at(uint64_t seed, uint64_t place) {
  const float u = 1 - uniform_at(seed, 2 * place), v = uniform_at(seed, 2 * place + 1);
  return std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi_v<float> * v);
}

}  // namespace choir::moe
