// What the verbs read from disk besides models, and how they write models.
#pragma once

#include <string>
#include <vector>

#include "cli/options.h"
#include "compress/calibration.h"
#include "eval/windows.h"
#include "runtime/bundle.h"

namespace choir::cli {

// "FILE" or "FILE:TENSOR". A file whose own name holds a ':' is found as it is.
struct TensorPlace {
  std::string path, name;
};
TensorPlace tensor_place(const std::string& argument, const std::string& otherwise);

// How to read a model that ready_to_run() gets.
runtime::Use use_for(bool exact);

// The model as it runs fastest, or where --exact asks for it as its file has it.
model::Model ready_to_run(const model::Model& model, bool exact, base::Threads& threads);

// A tensor of token ids, I64 or I32, of any rank from 1 to 3.
struct Ids {
  std::vector<int64_t> shape;
  std::vector<int32_t> ids;
};

// The tensor is input_ids unless named. Throws Error (input).
Ids read_ids(const std::string& argument);

// A file of text. Throws Error (input) when it is empty or binary: it holds a NUL or is not UTF-8.
std::string read_text(const std::string& path);

std::vector<eval::Document> read_documents(const std::vector<std::string>& paths, const runtime::Bundle& bundle);

// From --calibrate or --ids. An I64 [S,B,T] is S batches, [B,T] is one.
std::vector<compress::CalibrationBatch> calibration_batches(const Calibration& options, const runtime::Bundle& bundle);

// Before long work: throws Error (usage) unless a model may be written to `out`. What --force replaces must be a model
// or empty, and must not hold the source.
void check_model_output(const std::string& out, const std::string& source, bool force);

// Writes `model` as a whole directory: config.json from the source's, safetensors, and the source's tokenizer files.
// Before the directory appears it is loaded again, and its logits of a few tokens are compared bit for bit with those
// of `model`; throws Error (input) where they differ.
void write_model(const model::Model& model, const std::string& source, const std::string& out, bool force);

// Copies what a model directory holds beside config.json and weights: its tokenizer's files.
void copy_companions(const std::string& source, const std::string& directory);

base::Existing existing(bool force);

}  // namespace choir::cli
