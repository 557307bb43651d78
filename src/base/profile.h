// What a computation did and when. Operators name themselves and say how much work they are; a Profile that watches
// their Threads writes it down. Where none watches, an operator costs a branch, and its work is not even counted.
//
//   base::Operator op(threads, "q", product_work, x.rows, weight);  // when watched, product_work(x.rows, weight)
//   linear_forward(x, weight, q, threads);
//   op.next("rope");
//   rope(q, threads);
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/threads.h"

namespace choir::base {

// The least that an operator can move and compute: every operand is read and every result written once. Arithmetic is
// that of matrix products and attention, two operations for a multiply-add; elementwise operators count none.
struct Work {
  int64_t weights = 0;          // bytes of the model's weights
  int64_t others = 0;           // bytes of all else: activations, keys and values, gradients, moments
  int64_t operations = 0;       // on floats
  int64_t byte_operations = 0;  // on bytes

  int64_t bytes() const { return weights + others; }
  Work& operator+=(const Work& more);
};

Work moved_bytes(size_t bytes);

// The spans of what was computed with one Threads, in the order in which they began, in memory set aside at the start:
// when it is full, what comes is counted and dropped. Only the thread that calls for_each may use it, between loops.
class Profile {
 public:
  static constexpr size_t kSpans = size_t{1} << 18;

  // Watches `threads`, which must outlive it, until it is destroyed. No other profile may watch them.
  explicit Profile(Threads& threads, size_t spans = kSpans);
  Profile(const Profile&) = delete;
  Profile& operator=(const Profile&) = delete;
  ~Profile();

  struct Span {
    const char* name;
    int parent;          // the span around it; -1: none
    int layer;           // of a scope that is a layer; else -1
    bool is_operator;    // or a scope of operators
    bool cut;            // something inside it was dropped
    int64_t begin, end;  // ticks since the profile was made
    Work work;
  };
  // A thread between its first iteration of a loop and its last.
  struct Busy {
    int span;  // around the loop; -1: none
    int64_t begin, end;
  };

  std::span<const Span> spans() const { return spans_; }
  int threads() const { return static_cast<int>(busy_.size()); }
  std::span<const Busy> busy(int thread) const {
    return busy_[static_cast<size_t>(thread)];
  }  // thread 0 calls for_each
  double seconds_per_tick() const { return watch_.seconds() / static_cast<double>(now()); }
  int64_t dropped() const;  // spans, and loops of threads
  void clear();             // outside all spans

  // What Scope, Operator and Threads say to it. open() returns the span, or -1 when it is dropped.
  int64_t now() const { return ticks() - start_; }
  int open(const char* name, int layer, bool is_operator, const Work& work, int64_t begin);
  void close(int span, int64_t end);
  void add_busy(int thread, int64_t begin);  // by that thread, during a loop

 private:
  void cut();

  Threads& watched_;
  Stopwatch watch_;
  int64_t start_ = ticks();
  int open_ = -1;  // the innermost span
  int64_t dropped_ = 0;
  std::vector<Span> spans_;
  std::vector<std::vector<Busy>> busy_;  // [threads]
  std::vector<int64_t> busy_dropped_;    // [threads]
};

// Until its end, what happens is part of a phase, of a layer or of some other whole. Names must live for ever.
class Scope {
 public:
  Scope(Threads& threads, const char* name, int layer = -1) : profile_(threads.profile()) {
    if (profile_) [[unlikely]]
      span_ = profile_->open(name, layer, false, {}, profile_->now());
  }
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;
  ~Scope() {
    if (profile_) [[unlikely]]
      profile_->close(span_, profile_->now());
  }

 private:
  Profile* profile_;
  int span_ = -1;
};

// Until its end or next(), an operator runs. `count` is a function that returns Work and its arguments, or nothing.
class Operator {
 public:
  template <class... Count>
  Operator(Threads& threads, const char* name, const Count&... count) : profile_(threads.profile()) {
    if (profile_) [[unlikely]]
      open(name, counted(count...), profile_->now());
  }
  Operator(const Operator&) = delete;
  Operator& operator=(const Operator&) = delete;
  ~Operator() {
    if (profile_) [[unlikely]]
      profile_->close(span_, profile_->now());
  }

  // Ends it and begins another.
  template <class... Count>
  void next(const char* name, const Count&... count) {
    if (!profile_) [[likely]]
      return;
    const int64_t now = profile_->now();
    profile_->close(span_, now);
    open(name, counted(count...), now);
  }

 private:
  static Work counted() { return {}; }
  template <class... Count>
  static Work counted(const Count&... count) {
    return std::invoke(count...);
  }

  void open(const char* name, const Work& work, int64_t begin) { span_ = profile_->open(name, -1, true, work, begin); }

  Profile* profile_;
  int span_ = -1;
};

}  // namespace choir::base
