// What a training run is: the file given to `choir train --config`.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/backward.h"
#include "tensor/dtype.h"

namespace choir::train {

// One kind of text. Files: .jsonl holds one document a line under "text", anything else is one document.
struct Domain {
  std::string name;
  double weight = 1;               // share of the sequences, relative to the other domains
  std::vector<std::string> files;  // relative to the data directory
};

struct TokenizerSource {
  std::string path;    // a tokenizer.json, relative to the data directory, or empty:
  int vocab_size = 0;  // then one of this size is learnt from the domains
};

struct Schedule {
  int steps = 0, warmup_steps = 0;
  double learning_rate = 0, min_learning_rate = 0;

  // Linear warm-up to learning_rate, then half a cosine down to min_learning_rate at the last step; step counts from 1.
  double at(int step) const;
};

// Losses on held-out tokens while the run goes on.
struct EvaluationPlan {
  int every = 0;                             // steps; 0: never
  int tokens = 16384;                        // of each domain, at most
  std::map<std::string, std::string> files;  // held-out text of a domain; else the end of its own
};

// Where tokens live when R nodes are simulated: their sequence's place in the batch, or its domain, decides.
struct Placement {
  enum class Pin { kBatch, kDomain };
  int nodes = 1;
  Pin pin = Pin::kBatch;
};

// What a smaller model learns from a teacher: weight w and temperature T of its losses (model::Teaching).
struct Distillation {
  std::string teacher;  // a model directory, or empty
  double weight = 1, temperature = 1;
};

enum class Task { kText, kExamples };  // plain text, or answers to prompts (supervised fine-tuning)

struct TrainConfig {
  std::string model;   // a config.json, as text; empty: that of `from`
  std::string router;  // an expression or alias for every layer; empty: what the model's config says
  TokenizerSource tokenizer;
  Task task = Task::kText;
  std::vector<Domain> domains;
  std::string from;                                      // a model directory that the parameters begin as, or empty
  double upcycle_noise = 0;                              // of experts that are copies: relative deviation
  std::vector<std::string> freeze;                       // patterns of names (pattern.h) that are not trained
  tensor::DType moments = tensor::DType::kF32;           // kBF16: half the memory
  model::Recompute recompute = model::Recompute::kNone;  // of what each block keeps for its backward
  kernels::Sums sums = kernels::Sums::kPacked;           // of the products; kRounded: operands in BF16
  Distillation distillation;
  EvaluationPlan evaluation;
  Placement placement;
  Schedule schedule;
  int batch_size = 16, sequence_length = 256;  // sequences of a micro-batch, tokens of one at most
  int accumulate = 1;                          // micro-batches of a step
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0.1;
  double gradient_clip = 1;    // largest norm of the whole gradient
  int checkpoint_every = 200;  // steps
  uint64_t seed = 1;
  bool tensorboard = true;                          // an event file beside metrics.jsonl
  tensor::DType saved_type = tensor::DType::kBF16;  // of the finished model's matrices
};

// Throws Error (input) that names the field; a key that is not known is one. vocab_size of the model may be missing:
// the tokenizer gives it. With `from`, model and tokenizer may be: they are those of its directory.
TrainConfig read_train_config(const std::string& path);

}  // namespace choir::train
