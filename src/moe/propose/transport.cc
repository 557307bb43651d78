#include "moe/propose/transport.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "base/error.h"

namespace choir::moe {
namespace {

constexpr int64_t kFar = std::numeric_limits<int64_t>::max() / 4;

// Successive shortest paths (Ahuja, Magnanti and Orlin, Network Flows, section 9.7) on a graph that has a node for each
// sink and one behind them, the end. Sources come one by one. The length from sink a to b is the least that moving one
// of a's sources to b loses; to the end it is 0 from every sink that has room. So a path from the new source through
// some sinks to the end is a chain of moves, and the shortest keeps the whole choice optimal. Lengths may be negative:
// with `height`, the distances of earlier searches, every length + height[a] - height[b] is at least 0, as Dijkstra's
// algorithm asks, and the search may stop at the end.
class Transport {
 public:
  Transport(std::span<const int64_t> gain, int sinks)
      : gain_(gain),
        sinks_(static_cast<size_t>(sinks)),
        load_(sinks_),
        height_(sinks_),
        distance_(sinks_),
        before_(sinks_),
        length_(sinks_ * sinks_, kFar),
        movers_(sinks_ * sinks_),
        sink_(gain.size() / sinks_, -1) {}

  // Until every sink holds floor(N/E) none may hold more. Then each has room for one more and none may give one back
  // below that, so the end may be as low as the lowest sink.
  std::vector<int32_t> run() {
    const size_t sources = sink_.size(), floor = sources / sinks_;
    most_ = floor;
    for (size_t s = 0; s < sources; ++s) {
      if (s == floor * sinks_) {
        ++most_;
        end_ = *std::ranges::min_element(height_);
      }
      augment(s, search(s));
    }
    return std::move(sink_);
  }

 private:
  struct Mover {
    int64_t loss;
    int32_t source;
    // The heap's first has the least loss, of equal ones the lowest number.
    bool operator<(const Mover& other) const { return loss != other.loss ? loss > other.loss : source > other.source; }
  };

  int64_t gain(size_t source, size_t sink) const { return gain_[source * sinks_ + sink]; }

  // The last sink of the shortest path from the new source to the end; before_[b] is the sink in front of b, -1 for
  // the source itself. Sinks farther than the end rise with it.
  size_t search(size_t source) {
    for (size_t b = 0; b < sinks_; ++b) distance_[b] = -gain(source, b) - height_[b];
    std::ranges::fill(before_, -1);
    open_.resize(sinks_);
    std::iota(open_.begin(), open_.end(), size_t{0});
    size_t last = sinks_;
    int64_t to_end = kFar;
    while (!open_.empty()) {
      const auto next = std::ranges::min_element(open_, {}, [&](size_t b) { return std::pair(distance_[b], b); });
      const size_t a = *next;
      if (distance_[a] >= to_end) break;
      *next = open_.back();
      open_.pop_back();
      if (load_[a] < most_ && distance_[a] + height_[a] - end_ < to_end) {
        to_end = distance_[a] + height_[a] - end_;
        last = a;
      }
      if (load_[a] > 0) relax(a);
    }
    for (size_t b = 0; b < sinks_; ++b) height_[b] += std::min(distance_[b], to_end);
    end_ += to_end;
    return last;
  }

  void relax(size_t a) {
    const int64_t* length = length_.data() + a * sinks_;
    const int64_t base = distance_[a] + height_[a];
    for (const size_t b : open_) {
      const int64_t through = base + length[b] - height_[b];
      if (through >= distance_[b]) continue;
      distance_[b] = through;
      before_[b] = static_cast<int32_t>(a);
    }
  }

  // From the end of the path: each sink takes a source of the one before it, the first takes the new source.
  void augment(size_t source, size_t last) {
    changed_.clear();
    for (size_t b = last;;) {
      const int32_t a = before_[b];
      const size_t moved = a < 0 ? source : static_cast<size_t>(movers(static_cast<size_t>(a), b).front().source);
      take(moved, b);
      changed_.push_back(b);
      if (a < 0) break;
      b = static_cast<size_t>(a);
    }
    ++load_[last];
    for (const size_t a : changed_)
      for (size_t b = 0; b < sinks_; ++b) refresh(a, b);
  }

  std::vector<Mover>& movers(size_t a, size_t b) { return movers_[a * sinks_ + b]; }

  void take(size_t source, size_t a) {
    sink_[source] = static_cast<int32_t>(a);
    for (size_t b = 0; b < sinks_; ++b) {
      if (b == a) continue;
      std::vector<Mover>& heap = movers(a, b);
      heap.push_back({gain(source, a) - gain(source, b), static_cast<int32_t>(source)});
      std::push_heap(heap.begin(), heap.end());
    }
  }

  // Throws away who has left a meanwhile, then reads the length from a to b.
  void refresh(size_t a, size_t b) {
    std::vector<Mover>& heap = movers(a, b);
    while (!heap.empty() && sink_[static_cast<size_t>(heap.front().source)] != static_cast<int32_t>(a)) {
      std::pop_heap(heap.begin(), heap.end());
      heap.pop_back();
    }
    length_[a * sinks_ + b] = heap.empty() ? kFar : heap.front().loss;
  }

  std::span<const int64_t> gain_;
  size_t sinks_;
  std::vector<size_t> load_;
  std::vector<int64_t> height_, distance_;
  std::vector<int32_t> before_;
  std::vector<int64_t> length_;             // [E*E]
  std::vector<std::vector<Mover>> movers_;  // [E*E] the sources of a by what moving them to b loses, and some that left
  std::vector<int32_t> sink_;               // [N]
  std::vector<size_t> changed_, open_;
  size_t most_ = 0;  // a sink may hold
  int64_t end_ = 0;  // height of the end
};

}  // namespace

std::vector<int32_t> assign_evenly(std::span<const int64_t> gain, int sinks) {
  const int64_t most = (int64_t{1} << 50) / sinks;
  CHOIR_CHECK(std::ranges::all_of(gain, [&](int64_t g) { return g <= most && g >= -most; }), "a gain is too large");
  return Transport(gain, sinks).run();
}

}  // namespace choir::moe
