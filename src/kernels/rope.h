// Rotary position embedding (arXiv 2104.09864): the pairs of numbers of a head, or of a part of it, turn by an angle
// that grows with the position.
#pragma once

#include "base/threads.h"
#include "kernels/rope_frequencies.h"
#include "tensor/view.h"

namespace choir::kernels {

using base::Threads;
using tensor::Matrix;

// table (positions, R): row p holds f cos (first R/2 columns) and f sin (last R/2) of p * inverse_i; angles in double.
void rope_table(const RopeFrequencies& frequencies, Matrix<float> table);

// Which two numbers of the R that turn are pair i: i and i + R/2, or 2i and 2i + 1.
enum class Pairs { kHalves, kNeighbours };

struct Rotation {
  Matrix<const float> table;  // of rope_table
  Pairs pairs = Pairs::kHalves;
  int head_width = 0;  // W; 0 means R
  int offset = 0;      // of a head's W numbers the R from here on turn, the others stay
};

// kBack turns by minus the angle: the backward of kForward, and its inverse where the factor f is 1.
enum class Turn { kForward, kBack };

// Turns every head of every row of x (N, H*W) in place; row i stands at position[i] < table.rows.
void rope(Matrix<float> x, std::span<const int> position, const Rotation& rotation, Turn turn, Threads& threads);

}  // namespace choir::kernels
