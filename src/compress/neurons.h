// Pruning of hidden neurons inside the experts, whose widths may then differ.
#pragma once

#include "compress/layer_run.h"
#include "compress/mixture.h"

namespace choir::compress {

// What each hidden neuron of a layer's experts adds to its output, and what the output has.
struct NeuronScores {
  std::vector<std::vector<double>> score;  // [experts][width] sum over its tokens of b^2 h^2 |w_down|^2
  double energy = 0;                       // sum over tokens of |h|^2 of the stream that the layer adds to
};

// Over what layer l is given (docs/compress.md, C56). Bit for bit the same for any number of threads.
NeuronScores score_neurons(const Model& model, int l, const LayerInputs& inputs, Threads& threads);

struct NeuronOptions {
  double keep = 0.75;  // share of the neurons of all layers together, in (0,1]; rounded down to whole groups
  int multiple = 16;   // neurons of a group: widths are multiples of it, but for a width that is none to begin with
};

// The neurons that stay: [layers][experts], ascending.
using NeuronLists = std::vector<std::vector<std::vector<int>>>;

// Groups of an expert's best neurons, the most worth first, in shares of the layer's energy; every expert keeps one
// group. Throws Error (usage) for options out of range.
NeuronLists choose_neurons(std::span<const NeuronScores> layers, const NeuronOptions& options);

// The same for `pruned`, whose layers are given what those of the full model receive of the calibration tokens.
NeuronLists find_neurons(const Model& full, const Model& pruned, std::span<const CalibrationBatch> batches,
                         const NeuronOptions& options, Threads& threads, const Progress& progress = {});

// Layer l with these neurons of each expert alone, in the format that its numbers have.
Model with_neurons(const Model& model, int l, std::span<const std::vector<int>> kept);
// All layers.
Model with_neurons(Model model, std::span<const std::vector<std::vector<int>>> kept);

}  // namespace choir::compress
