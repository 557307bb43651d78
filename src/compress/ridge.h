// Ridge refit of the down projections of a changed layer: each expert answers what the others leave of the full layer.
#pragma once

#include "compress/layer_run.h"
#include "compress/mixture.h"

namespace choir::compress {

constexpr int kWidestRidge = 1536;  // F: the normal equations of one expert are F^2 doubles, their factor F^3/3

struct RidgeOptions {
  double lambda = 1e-3;  // in mean diagonals of the normal matrix, above 0
  int sweeps = 1;        // over the experts; every visit starts from what the one before left
};

struct RidgeRefit {
  Model model;
  double before, after;  // J of layer_loss, without and with the new projections as they are stored
};

// With R_t = z_t - (what the others answer), b_t the gain and h_t the hidden activation of an expert's tokens:
//   W = (sum b R h^T + lambda W_0) (sum b^2 h h^T + lambda I)^-1             (docs/compress.md, C54)
// Experts in turn, on the residual that the one before left; an expert whose new numbers, rounded to its format, do
// not lower J keeps its own. So J never rises. Bit for bit the same for any number of threads. Throws Error (usage)
// for an option out of range or an expert that is too wide. Memory: two times (N,D) doubles at most, and the
// activations and equations of one expert.
RidgeRefit refit_down(const Model& model, int l, const LayerTarget& target, const RidgeOptions& options,
                      Threads& threads);

}  // namespace choir::compress
