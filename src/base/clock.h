// Wall-clock seconds since construction, and a cheaper counter for what happens too often to be asked for seconds.
#pragma once

#include <chrono>
#include <cstdint>

namespace choir::base {

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

// Of the processor's time stamp counter, which runs evenly and alike on all processors of a machine. How long one is,
// the difference over a measured time tells.
inline int64_t ticks() { return static_cast<int64_t>(__builtin_ia32_rdtsc()); }

}  // namespace choir::base
