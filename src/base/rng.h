// Random numbers that are the same on every machine and whose whole state can be saved.
#pragma once

#include <array>
#include <cstdint>

namespace choir::base {

// xoshiro256** (Blackman and Vigna, 2018), seeded by splitmix64. Not for cryptography. Not thread-safe.
class Rng {
 public:
  using State = std::array<uint64_t, 4>;

  explicit Rng(uint64_t seed);
  explicit Rng(const State& state) : state_(state) {}

  uint64_t next();
  double uniform();                // [0, 1), 53 bits
  uint64_t below(uint64_t bound);  // [0, bound), unbiased; bound > 0
  float normal();                  // mean 0, deviation 1
  const State& state() const { return state_; }

 private:
  State state_;
};

}  // namespace choir::base
