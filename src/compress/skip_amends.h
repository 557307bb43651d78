// Numbers that bring the output of a token that goes without experts nearer to that of the full layer
// (docs/compress.md, "Gains after a skip").
#pragma once

#include "compress/calibration.h"

namespace choir::compress {

// What a layer's skipping word is given, for each number of experts that stay.
enum class Amend {
  kNone,
  kFactors,  // the best factor for all channels (C44)
  kMoments,  // of each channel the full output's mean and deviation (C45)
  kLinear,   // of each channel the best factor and shift (C46)
};

const char* name_of(Amend amend);

// One pass over the calibration tokens, from which every kind is made. In each layer both models see what the full
// model's layer receives; what a shared expert adds behind is left out. Memory: the residual streams of all tokens, one
// layer's inputs and two outputs.
class SkipAmends {
 public:
  // `skipping` is the full model with a word of skipping in each layer, and without numbers for it. Both are copied.
  SkipAmends(const Model& full, const Model& skipping, std::span<const CalibrationBatch> batches, Threads& threads,
             const Progress& progress = {});

  // The skipping model with these numbers. Layers of one expert a token stay as they are, and so do outputs for which
  // there were few tokens: less than 16 for a factor, 128 for channels.
  Model model(Amend amend) const;

 private:
  // Over the tokens of which one number of experts stay: y is their output, z the full layer's.
  struct Sums {
    int64_t tokens = 0;
    double yz = 0, yy = 0;                                // weighed, of whole outputs
    std::vector<double> of_y, of_z, of_yy, of_zz, of_yz;  // [D]
  };
  // Of one token.
  struct Outputs {
    std::span<const float> y, z;
    double stream;  // |h|^2
  };

  static void add(const Outputs& outputs, Sums& sums);
  std::vector<float> row_of(const Sums& sums, Amend amend) const;

  Model skipping_;
  std::vector<std::vector<Sums>> sums_;  // [L][K-1]
};

}  // namespace choir::compress
