#include "runtime/session.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/profile.h"

namespace choir::runtime {
namespace {

constexpr int kChunk = 512;         // tokens of one forward: bounds the scratch memory of a long prompt
constexpr int kFirstCapacity = 64;  // positions the cache begins with

int checked_capacity(const model::Model& model, int capacity) {
  if (capacity < 0 || capacity > model.positions())
    base::usage_error("a context of " + std::to_string(capacity) + " tokens", "context",
                      "the model takes from 1 to " + std::to_string(model.positions()));
  return capacity == 0 ? model.positions() : capacity;
}

}  // namespace

double Counts::decode_tokens_per_second() const {
  return decode_seconds > 0 ? static_cast<double>(decode_tokens) / decode_seconds : 0;
}

Session::Session(const model::Model& model, base::Threads& threads, int capacity)
    : model_(&model),
      threads_(threads),
      capacity_(checked_capacity(model, capacity)),
      cache_(model.config(), 1, std::min(capacity_, kFirstCapacity)),
      logits_(static_cast<size_t>(model.config().vocab)) {
  counts_.layers.resize(model.config().layers.size());
}

std::span<const float> Session::feed(std::span<const int32_t> ids) {
  const base::Stopwatch watch;
  const auto count = static_cast<int>(std::min<size_t>(ids.size(), static_cast<size_t>(capacity_) + 1));
  if (count == 0) base::input_error("no tokens", "prompt", "give at least one");
  if (count > capacity_ - length_)
    base::input_error(std::to_string(ids.size()) + " tokens after " + std::to_string(length_), "prompt",
                      "the context holds " + std::to_string(capacity_));
  make_room(length_ + count);
  read(ids, length_);
  length_ += count;
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  counts_.prompt_tokens += count;
  counts_.prompt_seconds += watch.seconds();
  return logits_.span();
}

Generation Session::generate(std::span<const int32_t> prompt, const GenerateOptions& options, const OnToken& on_token) {
  Sampler sampler(options.sampling);
  if (options.most < 0) base::usage_error("a negative number of tokens", "generate", "0 or more");
  const auto all = static_cast<size_t>(model_->config().vocab);
  const size_t vocab = options.vocab > 0 ? std::min(all, static_cast<size_t>(options.vocab)) : all;
  {
    const base::Scope scope(threads_, "prefill");
    feed(prompt);
  }
  Generation result;
  while (static_cast<int>(result.ids.size()) < options.most) {
    const base::Scope scope(threads_, "decode");
    const int32_t id = choose(sampler, vocab);
    if (!options.ignore_end && is_end(id)) return {std::move(result.ids), Stop::kEnd};
    result.ids.push_back(id);
    if (on_token && !on_token(id)) return {std::move(result.ids), Stop::kCaller};
    if (static_cast<int>(result.ids.size()) == options.most) break;
    if (length_ == capacity_) return {std::move(result.ids), Stop::kContext};
    const base::Stopwatch reading;
    make_room(length_ + 1);
    forward({&id, 1}, length_++);
    ids_.push_back(id);
    ++counts_.decode_tokens;
    counts_.decode_seconds += reading.seconds();
  }
  return result;
}

int32_t Session::choose(Sampler& sampler, size_t vocab) {
  const base::Operator op(threads_, "sampler", base::moved_bytes, vocab * sizeof(float));
  const base::Stopwatch watch;
  if (!std::ranges::all_of(logits_.span(), [](float v) { return std::isfinite(v); }))
    model_->refuse_result("the logits");
  const int32_t id = sampler.pick(logits_.span().first(vocab));
  counts_.decode_seconds += watch.seconds();
  return id;
}

void Session::rewind(int length) {
  CHOIR_CHECK(length >= 0 && length <= length_, "rewind to " + std::to_string(length));
  length_ = length;
  ids_.resize(static_cast<size_t>(length));
}

void Session::read(std::span<const int32_t> ids, int first) {
  const auto count = static_cast<int>(ids.size());
  for (int done = 0; done < count; done += kChunk)
    forward(ids.subspan(static_cast<size_t>(done), static_cast<size_t>(std::min(kChunk, count - done))), first + done);
}

void Session::forward(std::span<const int32_t> ids, int first) {
  const kernels::Sequence sequence{0, static_cast<int>(ids.size()), first, 0};
  const auto observer = [this](int layer, const moe::Routing& routing) {
    counts_.layers[static_cast<size_t>(layer)].add(routing);
    if (observer_) observer_(layer, routing);
  };
  model::forward(*model_, {ids, {&sequence, 1}, longer_},
                 {.cache = &cache_, .rows = model::Rows::kLast, .observer = observer}, scratch_,
                 logits_.matrix(1, model_->config().vocab), threads_);
}

// Some models turn longer texts otherwise: what was read for a text of the other kind is then read again.
void Session::make_room(int length) {
  const int most = model_->config().rope_switch();
  if (const bool longer = most > 0 && length > most; longer != longer_) {
    longer_ = longer;
    grow(length);
    read(ids_, 0);
  } else {
    grow(length);
  }
}

// Doubling keeps the copying below the cost of what was read.
void Session::grow(int length) {
  if (length <= cache_.capacity()) return;
  model::KvCache larger(model_->config(), 1, std::min(capacity_, std::max(length, 2 * cache_.capacity())));
  larger.copy(cache_, length_);
  cache_ = std::move(larger);
}

bool Session::is_end(int32_t id) const {
  return std::ranges::find(model_->config().end_tokens, id) != model_->config().end_tokens.end();
}

}  // namespace choir::runtime
