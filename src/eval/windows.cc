#include "eval/windows.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "kernels/cross_entropy.h"

namespace choir::eval {
namespace {

constexpr int kDefaultContext = 512;
constexpr int64_t kBatchRows = 2048;       // enough to keep every expert busy
constexpr int64_t kBatchLogits = 1 << 24;  // floats: 64 MiB

Cut resolved(const Model& model, Cut cut) {
  if (cut.context == 0) cut.context = std::min(kDefaultContext, model.positions());
  if (cut.stride == 0) cut.stride = cut.context;
  if (cut.context < 1 || cut.context > model.positions())
    base::usage_error("a context of " + std::to_string(cut.context) + " tokens", "context",
                      "the model takes from 1 to " + std::to_string(model.positions()));
  if (cut.stride < 1 || cut.stride > cut.context)
    base::usage_error("a stride of " + std::to_string(cut.stride) + " tokens", "stride",
                      "from 1 to the context, " + std::to_string(cut.context));
  return cut;
}

}  // namespace

std::optional<int32_t> prefix_token(const text::Tokenizer& tokenizer) {
  for (const char* name : {"<s>", "<|begin_of_text|>"})
    if (const auto id = tokenizer.id_of(name)) return id;
  return tokenizer.end_of_text();
}

Document encode_document(const text::Tokenizer& tokenizer, const std::string& text) {
  Document document{tokenizer.encode_ordinary(text), static_cast<int64_t>(text.size())};
  if (const auto prefix = prefix_token(tokenizer))
    document.ids.insert(document.ids.begin(), *prefix);
  else if (!document.ids.empty())
    document.bytes -= static_cast<int64_t>(tokenizer.bytes(document.ids.front()).size());
  return document;
}

std::vector<Window> cut_windows(const Model& model, std::span<const Document> documents, const Cut& wanted) {
  const Cut cut = resolved(model, wanted);
  std::vector<Window> windows;
  for (size_t d = 0; d < documents.size(); ++d) {
    const int inputs = static_cast<int>(documents[d].ids.size()) - 1;
    for (int begin = 0, scored = 0; scored < inputs; begin += cut.stride) {
      const int end = std::min(begin + cut.context, inputs);
      windows.push_back({static_cast<int>(d), begin, end - begin, scored - begin});
      scored = end;
    }
  }
  if (windows.empty()) base::input_error("the text holds no token to score", "text", "two tokens are the least");
  return windows;
}

std::vector<Window> cut_inputs(const Model& model, std::span<const Document> documents, const Cut& wanted) {
  const Cut cut = resolved(model, wanted);
  std::vector<Window> windows;
  for (size_t d = 0; d < documents.size(); ++d) {
    const int inputs = static_cast<int>(documents[d].ids.size());
    for (int begin = 0; begin < inputs; begin += cut.context)
      windows.push_back({static_cast<int>(d), begin, std::min(cut.context, inputs - begin), 0});
  }
  if (windows.empty()) base::input_error("the text holds no token", "text", "give a file with some text");
  return windows;
}

std::span<const Window> WindowRunner::next_batch(std::span<const Window> rest) const {
  const int64_t most = std::min(kBatchRows, kBatchLogits / model_.config().vocab);
  size_t taken = 0;
  int64_t rows = 0;
  while (taken < rest.size() && (taken == 0 || rows + rest[taken].count <= most)) rows += rest[taken++].count;
  return rest.first(taken);
}

void WindowRunner::gather(std::span<const Window> batch) {
  ids_.clear();
  sequences_.clear();
  for (const Window& w : batch) {
    const int row = static_cast<int>(ids_.size());
    sequences_.push_back({row, w.count, 0, row});
    const auto first = documents_[static_cast<size_t>(w.document)].ids.begin() + w.begin;
    ids_.insert(ids_.end(), first, first + w.count);
  }
}

tensor::Matrix<float> WindowRunner::logits(std::span<const Window> batch, const model::Observer& observer) {
  gather(batch);
  const int rows = static_cast<int>(ids_.size()), vocab = model_.config().vocab;
  logits_.reserve(static_cast<size_t>(rows) * static_cast<size_t>(vocab));
  const tensor::Matrix<float> logits = logits_.matrix(rows, vocab);
  model::forward(model_, {ids_, sequences_}, {.observer = observer}, scratch_, logits, threads_);
  return logits;
}

void WindowRunner::observe(std::span<const Window> batch, const model::Observer& observer) {
  gather(batch);
  const int rows = static_cast<int>(batch.size()), vocab = model_.config().vocab;
  logits_.reserve(static_cast<size_t>(rows) * static_cast<size_t>(vocab));
  model::forward(model_, {ids_, sequences_}, {.rows = model::Rows::kLast, .observer = observer}, scratch_,
                 logits_.matrix(rows, vocab), threads_);
}

std::vector<int32_t> targets_of(std::span<const Document> documents, std::span<const Window> batch) {
  std::vector<int32_t> targets;
  for (const Window& w : batch)
    for (int i = 0; i < w.count; ++i)
      targets.push_back(i < w.skipped ? -1 : documents[static_cast<size_t>(w.document)].ids[w.begin + i + 1]);
  return targets;
}

std::vector<double> negative_log_likelihoods(const Model& model, std::span<const Document> documents,
                                             std::span<const Window> windows, base::Threads& threads,
                                             const model::Observer& observer) {
  WindowRunner runner(model, documents, threads);
  std::vector<double> results;
  std::vector<float> loss, log_sum;
  for (auto rest = windows; !rest.empty();) {
    const auto batch = runner.next_batch(rest);
    rest = rest.subspan(batch.size());
    const auto logits = runner.logits(batch, observer);
    loss.resize(static_cast<size_t>(logits.rows));
    log_sum.resize(loss.size());
    kernels::cross_entropy_forward(logits, targets_of(documents, batch), loss, log_sum, threads);
    size_t row = 0;
    for (const Window& w : batch) {
      double sum = 0;
      for (int i = 0; i < w.count; ++i) sum += static_cast<double>(loss[row++]);
      if (!std::isfinite(sum)) model.refuse_result("the logits");
      results.push_back(sum);
    }
  }
  return results;
}

}  // namespace choir::eval
