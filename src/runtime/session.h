// A sequence that grows: a model, the keys and values of what it has read, and the logits of what may come next.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/expert_counts.h"
#include "runtime/sampler.h"

namespace choir::runtime {

using model::ExpertCounts;

// What a session has done since it began.
struct Counts {
  int64_t prompt_tokens = 0, decode_tokens = 0;  // read by feed(), and one by one by generate()
  double prompt_seconds = 0, decode_seconds = 0;
  std::vector<ExpertCounts> layers;

  double decode_tokens_per_second() const;  // 0 before the first
  ExpertCounts experts() const { return model::sum_of(layers); }
};

enum class Stop {
  kLength,   // as many tokens as were asked for
  kEnd,      // the model chose an end token
  kContext,  // the session is full
  kCaller,   // on_token said so
};

struct Generation {
  std::vector<int32_t> ids;  // without the end token
  Stop stop = Stop::kLength;
};

struct GenerateOptions {
  int most = 128;  // tokens
  Sampling sampling;
  bool ignore_end = false;  // end tokens are tokens like any other
  int vocab = 0;            // choose among the ids below it, for heads padded beyond the tokenizer; 0: among all
};

// Called with each new token; false ends the generation after it.
using OnToken = std::function<bool(int32_t id)>;

// One timeline of token ids, used by one thread at a time; sessions of one model may run in different threads if each
// has Threads of its own. The model and the threads must outlive it.
//
// Logits do not depend, bit for bit, on how the ids were cut into feeds, nor on the number of threads.
//
//   Session session(model, threads);
//   session.generate(prompt, {.most = 20}, [&](int32_t id) { show(id); return true; });
class Session {
 public:
  // The session is full at `capacity` tokens; 0 means as many as the model takes. Memory grows with what is fed.
  // Throws Error (usage) when the model takes fewer.
  Session(const model::Model& model, base::Threads& threads, int capacity = 0);

  // Appends at least one id and returns the logits [vocab] of the last; they stand until the next call. Throws Error
  // (input) for an id outside the vocabulary or when the session would overflow; the session is then as before.
  std::span<const float> feed(std::span<const int32_t> ids);

  // Feeds the prompt (at least one id), then chooses tokens and feeds them. Throws as feed does, and Error (usage) for
  // unsound options. The last token of the answer has not been fed, unless the answer stopped at an end token.
  Generation generate(std::span<const int32_t> prompt, const GenerateOptions& options, const OnToken& on_token = {});

  // Goes on with a model of the same bits: the same one with its weights in another order.
  void use(const model::Model& same) { model_ = &same; }

  // Forgets all ids but the first `length`.
  void rewind(int length);

  // Called after each layer with experts, in every later forward.
  void observe(model::Observer observer) { observer_ = std::move(observer); }

  int length() const { return length_; }  // ids fed and not forgotten
  int capacity() const { return capacity_; }
  const Counts& counts() const { return counts_; }

 private:
  int32_t choose(Sampler& sampler, size_t vocab);  // below it
  void read(std::span<const int32_t> ids, int first);
  void forward(std::span<const int32_t> ids, int first);
  void make_room(int length);
  void grow(int length);
  bool is_end(int32_t id) const;

  const model::Model* model_;
  base::Threads& threads_;
  int capacity_;
  int length_ = 0;
  std::vector<int32_t> ids_;  // [length_]
  bool longer_ = false;       // the cache holds them as parts of a text beyond Config::rope_switch
  model::KvCache cache_;
  model::Scratch scratch_;
  tensor::Buffer<float> logits_;  // [vocab]
  model::Observer observer_;
  Counts counts_;
};

}  // namespace choir::runtime
