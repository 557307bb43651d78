#include "runtime/machine.h"

#include <fstream>

#include "kernels/isa.h"
#include "kernels/peak.h"

namespace choir::runtime {
namespace {

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name"))
      if (const size_t at = line.find(": "); at != std::string::npos) return line.substr(at + 2);
  return "unknown";
}

}  // namespace

Machine this_machine() {
  return {cpu_name(), base::Threads(0).count(), std::string(kernels::name_of(kernels::best_isa()))};
}

double peak_gflops(base::Threads& threads) { return kernels::measure_peak_flops(threads) / 1e9; }

Ceilings measure_ceilings(base::Threads& threads) {
  return {kernels::measure_peak_flops(threads), kernels::measure_peak_byte_operations(threads),
          kernels::measure_read_bandwidth(threads)};
}

}  // namespace choir::runtime
