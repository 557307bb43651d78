// Helpers of this room's tests: a directory with two small files of text, and runs over them that take milliseconds.
#pragma once

#include <string>

#include "model/config.h"
#include "tests/files.h"
#include "train/config.h"
#include "train/trainer.h"

namespace choir::train {

using tests::contains;
using tests::refusal_of;
using tests::TemporaryDirectory;

inline const char* kTinyModel = R"({"model_type": "mixtral", "hidden_size": 16, "intermediate_size": 12,
  "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 4,
  "num_experts_per_tok": 2, "max_position_embeddings": 64, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
  "router_aux_loss_coef": 0.01, "tie_word_embeddings": false, "vocab_size": 270})";

inline void write_tiny_texts(const TemporaryDirectory& place) {
  std::string counting, lines;
  for (int i = 0; i < 200; ++i) {
    counting += std::to_string(i) + " and " + std::to_string(i * i % 97) + ", ";
    lines += "{\"text\": \"song " + std::to_string(i % 13) + " of the choir\"}\n";
  }
  place.write("counting.txt", counting);
  place.write("songs.jsonl", lines);
}

inline TrainConfig tiny_run() {
  TrainConfig config;
  config.model = kTinyModel;
  config.tokenizer.vocab_size = 270;
  config.domains = {{"counting", 2, {"counting.txt"}}, {"songs", 1, {"songs.jsonl"}}};
  config.schedule = {.steps = 12, .warmup_steps = 3, .learning_rate = 0.01, .min_learning_rate = 0.001};
  config.batch_size = 3;
  config.sequence_length = 16;
  config.checkpoint_every = 100;
  config.seed = 7;
  return config;
}

// A place with the texts, and runs in directories below it.
struct Runs {
  TemporaryDirectory place;
  Runs() { write_tiny_texts(place); }

  RunOptions options(const std::string& name, bool resume = false) const {
    std::filesystem::create_directory(place.file(name));
    RunOptions result;
    result.directory = place.file(name);
    result.data_directory = place.path();
    result.resume = resume;
    return result;
  }
  RunEnd run(const TrainConfig& config, const RunOptions& options, int thread_count = 1) const {
    base::Threads threads(thread_count);
    return train(config, options, threads);
  }
  // Ends after a step, with a checkpoint.
  RunEnd run_until(const TrainConfig& config, RunOptions options, int step, int thread_count = 1) const {
    options.on_step = [step](const StepReport& report) { return report.step < step; };
    return run(config, options, thread_count);
  }
  void run_in_parts(const TrainConfig& config, const std::string& name, int step) const {
    run_until(config, options(name), step, 3);
    run(config, options(name, true), 2);
  }
  std::string bytes(const std::string& name, const std::string& file) const {
    return base::read_file(place.file(name) + "/" + file);
  }
};

}  // namespace choir::train
