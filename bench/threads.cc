// What does it cost to share out a loop over the threads and to wait until all are done? Loops whose iterations do
// nothing, one after the other, as the operators of a decoded token follow one another.
//
//   bench_threads [THREADS]    CSV on stdout: medians and extremes of eleven samples, microseconds a loop
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "base/clock.h"
#include "base/threads.h"

int main(int argc, char** argv) {
  using namespace choir;
  base::Threads threads(argc > 1 ? std::atoi(argv[1]) : 0);
  fmt::print("threads,iterations,median_us,least_us,most_us\n");
  for (const int iterations : {threads.count(), 4 * threads.count(), 16 * threads.count()}) {
    constexpr int kSamples = 11, kLoops = 20000;
    std::vector<double> times;
    for (int sample = 0; sample < kSamples; ++sample) {
      const base::Stopwatch watch;
      for (int loop = 0; loop < kLoops; ++loop) threads.for_each(iterations, [](int) {});
      times.push_back(watch.seconds() / kLoops * 1e6);
    }
    std::ranges::sort(times);
    fmt::print("{},{},{:.2f},{:.2f},{:.2f}\n", threads.count(), iterations, times[kSamples / 2], times.front(),
               times.back());
  }
}
