// What this machine offers.
#pragma once

#include <string>

#include "base/threads.h"

namespace choir::runtime {

struct Machine {
  std::string cpu;      // as /proc/cpuinfo names it; "unknown" where it does not
  int processors;       // that the system lets this program use
  std::string kernels;  // the instructions that the kernels were chosen for: kernels::name_of
};

Machine this_machine();

// Multiply-adds on all of these threads, measured, in GFLOP per second.
double peak_gflops(base::Threads& threads);

// What all of these threads can do in a second at most, measured (kernels/peak.h): operations on floats and on bytes,
// bytes read from memory. Takes some tenths of a second and 256 MB.
struct Ceilings {
  double operations, byte_operations, read_bytes;
};
Ceilings measure_ceilings(base::Threads& threads);

}  // namespace choir::runtime
