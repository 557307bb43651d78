#include "train/teacher.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/atomic_output.h"
#include "base/error.h"
#include "train/hash.h"

namespace choir::train {
namespace {

// Ids must mean the same to both; a teacher without a tokenizer is believed where the numbers agree.
void check_vocabulary(const model::Model& teacher, const std::string& directory, const text::Tokenizer& tokenizer) {
  const std::string hint = "give the run the teacher's tokenizer";
  if (teacher.config().vocab != tokenizer.vocab_size())
    base::input_error(fmt::format("the teacher's vocabulary has {} tokens, that of the run {}", teacher.config().vocab,
                                  tokenizer.vocab_size()),
                      directory, hint);
  const std::string path = directory + "/tokenizer.json";
  if (std::error_code ignored; !std::filesystem::exists(path, ignored)) return;
  const auto own = text::load_tokenizer(path);
  for (int32_t id = 0; id < std::min(own->vocab_size(), tokenizer.vocab_size()); ++id)
    if (own->bytes(id) != tokenizer.bytes(id))
      base::input_error(fmt::format("token {} of the teacher is another than that of the run", id), directory, hint);
}

}  // namespace

Teacher::Teacher(const std::string& directory, const text::Tokenizer& tokenizer, int sequence_length)
    : directory_(directory), model_(directory), work_(model_.config()) {
  check_vocabulary(model_, directory, tokenizer);
  if (sequence_length > model_.positions())
    base::input_error(fmt::format("the teacher takes {} tokens at most", model_.positions()), directory,
                      fmt::format("sequence_length is {}", sequence_length));
  model_.check_finite();
}

uint64_t Teacher::hash() const {
  uint64_t hash = kHashStart;
  const std::string config = base::read_file(directory_ + "/config.json");
  add_to_hash(std::as_bytes(std::span(config)), hash);
  model::ModelTensors<tensor::Weight> tensors = model_.tensors();
  model::visit_tensors(model_.config(), tensors, [&](const model::TensorInfo&, const tensor::Weight& weight) {
    add_to_hash({static_cast<const std::byte*>(weight.data), weight.bytes()}, hash);
  });
  return hash;
}

double Teacher::read(const TokenBatch& batch, base::Threads& threads) {
  const model::Config& config = model_.config();
  Passed passed(config);
  passed.add(batch, config);
  const model::Observer count = [&](int l, const moe::Routing& routing) {
    passed.routing[static_cast<size_t>(l)].add(routing);
  };
  stream_ = model::forward_stream(model_, {batch.ids, batch.sequences}, {.observer = count}, scratch_, threads);
  return 2 * work_.multiply_adds(passed);
}

tensor::Matrix<const float> Teacher::logits(int first, int rows, base::Threads& threads) {
  const int vocab = model_.config().vocab;
  logits_.reserve(static_cast<size_t>(rows) * static_cast<size_t>(vocab));
  const tensor::Matrix<float> logits = logits_.matrix(rows, vocab);
  model::forward_head(model_, stream_.slice_rows(first, rows), scratch_, logits, threads);
  return logits;
}

}  // namespace choir::train
