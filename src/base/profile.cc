#include "base/profile.h"

#include "base/error.h"

namespace choir::base {
namespace {

constexpr size_t kLoops = 2;  // of an operator, about

}  // namespace

Work& Work::operator+=(const Work& more) {
  weights += more.weights;
  others += more.others;
  operations += more.operations;
  byte_operations += more.byte_operations;
  return *this;
}

Work moved_bytes(size_t bytes) { return {.others = static_cast<int64_t>(bytes)}; }

Profile::Profile(Threads& threads, size_t spans)
    : watched_(threads),
      busy_(static_cast<size_t>(threads.count())),
      busy_dropped_(static_cast<size_t>(threads.count())) {
  spans_.reserve(spans);
  for (std::vector<Busy>& thread : busy_) thread.reserve(kLoops * spans);
  CHOIR_CHECK(!threads.profile(), "two profiles of the same threads");
  threads.watch(this);
}

Profile::~Profile() { watched_.watch(nullptr); }

int64_t Profile::dropped() const {
  int64_t sum = dropped_;
  for (const int64_t thread : busy_dropped_) sum += thread;
  return sum;
}

void Profile::clear() {
  CHOIR_CHECK(open_ == -1, "cleared inside a span");
  dropped_ = 0;
  spans_.clear();
  for (std::vector<Busy>& thread : busy_) thread.clear();
  for (int64_t& thread : busy_dropped_) thread = 0;
}

int Profile::open(const char* name, int layer, bool is_operator, const Work& work, int64_t begin) {
  if (spans_.size() == spans_.capacity()) {
    ++dropped_;
    cut();
    return -1;
  }
  spans_.push_back({name, open_, layer, is_operator, false, begin, begin, work});
  return open_ = static_cast<int>(spans_.size()) - 1;
}

void Profile::close(int span, int64_t end) {
  for (const int64_t thread : busy_dropped_)
    if (thread > 0) cut();
  if (span < 0) return;
  Span& closed = spans_[static_cast<size_t>(span)];
  closed.end = end;
  open_ = closed.parent;
}

void Profile::add_busy(int thread, int64_t begin) {
  const auto t = static_cast<size_t>(thread);
  if (busy_[t].size() < busy_[t].capacity())
    busy_[t].push_back({open_, begin, now()});
  else
    ++busy_dropped_[t];
}

// All spans around what was dropped.
void Profile::cut() {
  for (int span = open_; span >= 0; span = spans_[static_cast<size_t>(span)].parent)
    spans_[static_cast<size_t>(span)].cut = true;
}

}  // namespace choir::base
