// What programs that measure share: the middle of several samples, and options with defaults.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace choir::bench {

// Of at least one sample; the mean of the middle two when their number is even.
inline double median(std::vector<double> samples) {
  std::ranges::sort(samples);
  return (samples[(samples.size() - 1) / 2] + samples[samples.size() / 2]) / 2;
}

using Options = std::map<std::string, std::string>;

// Pairs `--name value` from argv[first] on over the defaults; ends the program on a name that has none.
inline Options read_options(int argc, char** argv, Options options, int first = 1) {
  for (int i = first; i < argc; i += 2) {
    if (i + 1 == argc || !options.contains(argv[i])) {
      std::fprintf(stderr, "%s: unknown or lone option %s\n", argv[0], argv[i]);
      std::exit(2);
    }
    options[argv[i]] = argv[i + 1];
  }
  return options;
}

}  // namespace choir::bench
