// What the machine can do at this moment, on N threads: bench_ceilings N. Prints one line of JSON, in units a second.
#include <fmt/format.h>

#include <cstdlib>

#include "base/threads.h"
#include "kernels/peak.h"

int main(int count, char** words) {
  choir::base::Threads threads(count > 1 ? std::atoi(words[1]) : 0);
  const double flops = choir::kernels::measure_peak_flops(threads);
  const double bytes = choir::kernels::measure_peak_byte_operations(threads);
  const double bandwidth = choir::kernels::measure_read_bandwidth(threads);
  fmt::print("{{\"threads\":{},\"flops\":{:.4g},\"byte_operations\":{:.4g},\"read_bytes\":{:.4g}}}\n", threads.count(),
             flops, bytes, bandwidth);
}
