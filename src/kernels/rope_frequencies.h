// How fast each pair of a head turns, and how models stretch that to texts longer than those they were trained on.
// Asked once for a model: these allocate.
#pragma once

#include <vector>

namespace choir::kernels {

// The names are those of config.json. A field that a kind does not name is not read.
struct RopeSpec {
  enum class Kind { kNone, kLinear, kYarn, kLongrope, kLlama3 };

  double theta = 10000;
  Kind kind = Kind::kNone;
  double factor = 1;            // how many times longer: linear, yarn, llama3, and longrope without an mscale
  int original_length = 0;      // positions of the first training: yarn, longrope, llama3
  double attention_factor = 0;  // yarn, longrope: on cos and sin; 0 means that it follows from the others
  double beta_fast = 32;        // yarn: pairs that turn more often than this over the original length stay,
  double beta_slow = 1;         //   those that turn less often are slowed down by the factor
  double mscale = 0;            // yarn: 0 means that the key is missing
  double mscale_all_dim = 0;
  bool truncate = true;                               // yarn: the bounds between the two are whole pairs
  double low_freq_factor = 1;                         // llama3: the same bounds, slow ...
  double high_freq_factor = 4;                        //   ... and fast
  std::vector<double> short_factor{}, long_factor{};  // longrope: one for each pair
  double short_mscale = 0, long_mscale = 0;           // longrope of Phi: on cos and sin; 0 means attention_factor
};

struct RopeFrequencies {
  std::vector<double> inverse;  // [R/2] the angle of pair i at position 1
  double factor = 1;            // f, on cos and sin
};

// Of R = `width` numbers of a head that turn, for a text of `length` tokens: longrope has other frequencies above the
// original length, the other kinds do not look at it. CHECKs that the width is even, and of longrope that there is a
// factor for each pair.
RopeFrequencies rope_frequencies(const RopeSpec& spec, int width, int length);

// 0.1 m ln(factor) + 1, or 1 for a factor up to 1: by how much YaRN raises the scores' size (arXiv 2309.00071). The
// scale of DeepSeek's softmax has its square with m = mscale_all_dim.
double yarn_growth(double factor, double m);

}  // namespace choir::kernels
