// Helpers of this room's tests: a directory with two small files of text, and a run over them that takes milliseconds.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/atomic_output.h"
#include "base/error.h"
#include "model/config.h"
#include "train/config.h"

namespace choir::train {

// A directory that vanishes with this object.
class TemporaryDirectory {
 public:
  TemporaryDirectory() : path_((std::filesystem::temp_directory_path() / "choir_train_XXXXXX").string()) {
    CHOIR_CHECK(::mkdtemp(path_.data()) != nullptr, path_);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }

  std::string file(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  void write(const std::string& name, const std::string& text) const {
    base::write_file(file(name), text, base::Existing::kReplace);
  }

 private:
  std::string path_;
};

// The text of the input error that `call` throws; empty when it throws none.
template <class Call>
std::string refusal_of(const Call& call) {
  try {
    call();
  } catch (const base::Error& error) {
    return error.fault == base::Fault::kInput ? error.what() : "";
  }
  return "";
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

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

}  // namespace choir::train
