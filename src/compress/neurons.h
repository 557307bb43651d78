// Pruning of hidden neurons inside the experts, whose widths may then differ.
#pragma once

#include "compress/layer_run.h"
#include "compress/mixture.h"

namespace choir::compress {

// What each hidden neuron of a layer's experts adds to its output, and what the output has.
struct NeuronScores {
  std::vector<std::vector<double>> score;  // [experts][width] sum over its tokens of b^2 h^2 |w_down|^2
  double energy = 0;                       // sum over tokens of |z|^2
};

// Over the inputs x (N,D) of layer l (docs/compress.md, C56). Bit for bit the same for any number of threads.
NeuronScores score_neurons(const Model& model, int l, Matrix<const float> x, Threads& threads);

struct NeuronOptions {
  double keep = 0.75;  // share of the neurons of all layers, or of each, in (0,1]; rounded down to whole groups
  int multiple = 16;   // neurons of a group: widths are multiples of it, but for a width that is none to begin with
  bool over_layers = true;  // layers compete, by shares of their energies; otherwise each keeps `keep` of its own
};

// The neurons that stay, [layers][experts], ascending: groups of an expert's best neurons, the most worth first; every
// expert keeps one group. Throws Error (usage) for options out of range.
std::vector<std::vector<std::vector<int>>> choose_neurons(std::span<const NeuronScores> layers,
                                                          const NeuronOptions& options);

// Layer l with these neurons of each expert alone, in the format that its numbers have.
Model with_neurons(const Model& model, int l, std::span<const std::vector<int>> kept);

}  // namespace choir::compress
