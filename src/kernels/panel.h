// The packed tile: one operand is copied into panels that fit the first cache, the other is read a number at a time.
#pragma once

#include "kernels/vec.h"

namespace choir::kernels {

// y[i][j] (+)= sum over p, in order, of a(i,p) b(p,j). Each element is one chain of multiply-adds over p, broken every
// kPanelDepth of them: its bits depend on its row of a and its column of b alone.
// Of a, either rows: a(i,p) = a_rows[i][p], so that a gather is free; or, where that is null, columns:
// a(i,p) = a[p * a_step + i]. Of b, either rows: b(p,j) = b_rows[p][j]; or, where that is null, a weight as it lies:
// b(p,j) = w[j * w_stride + p].
struct PanelBlock {
  const float* const* a_rows = nullptr;
  const float* a = nullptr;
  ptrdiff_t a_step = 0;
  const float* const* b_rows = nullptr;
  const float* w = nullptr;
  ptrdiff_t w_stride = 0;
  float* y = nullptr;
  ptrdiff_t y_stride = 0;
  int rows = 0, cols = 0, depth = 0;  // rows at most kPanelMostRows, kPanelRows where a is columns
  bool add = false;
};

constexpr int kPanelDepth = 128, kPanelRows = 96, kPanelMostRows = 256;
constexpr int kPanelTile = 6;  // the tile's rows: whole tiles are fastest

extern const Versions<void(const PanelBlock&)> kPanel;

// The same of both operands rounded to BF16, two products a step, where the machine multiplies those faster than floats
// (Isa::kBf16); elsewhere kPanel.
extern const Versions<void(const PanelBlock&)> kRoundedPanel;

}  // namespace choir::kernels
