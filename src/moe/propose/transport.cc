#include "moe/propose/transport.h"

#include <algorithm>
#include <limits>

namespace choir::moe {
namespace {

constexpr int64_t kFar = std::numeric_limits<int64_t>::max() / 4;

// Successive shortest paths (Ahuja, Magnanti and Orlin, Network Flows, section 9.7) on a graph that has a node for each
// sink alone. Sources come one by one. The length from sink a to b is the least that moving one of a's sources to b
// loses, so a path from the new source through some sinks to one with room is a chain of moves; the shortest keeps the
// whole choice optimal. Lengths may be negative: `height` are the distances of the last search, and with them every
// length + height[a] - height[b] is at least 0, as Dijkstra's algorithm asks.
class Transport {
 public:
  Transport(std::span<const int64_t> gain, int sinks)
      : gain_(gain),
        sinks_(static_cast<size_t>(sinks)),
        load_(sinks_),
        height_(sinks_),
        distance_(sinks_),
        before_(sinks_),
        done_(sinks_),
        length_(sinks_ * sinks_, kFar),
        movers_(sinks_ * sinks_),
        sink_(gain.size() / sinks_, -1) {}

  // Until every sink holds floor(N/E) none may hold more; then each has room for one more.
  std::vector<int32_t> run() {
    const size_t sources = sink_.size(), floor = sources / sinks_;
    for (size_t s = 0; s < sources; ++s) {
      search(s);
      augment(s, nearest_with_room(s < floor * sinks_ ? floor : floor + 1));
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

  // Distances from the new source to all sinks; before_[b] is the sink in front of b on the shortest path, -1 for the
  // source itself.
  void search(size_t source) {
    for (size_t b = 0; b < sinks_; ++b) distance_[b] = -gain(source, b) - height_[b];
    std::ranges::fill(before_, -1);
    std::ranges::fill(done_, 0);
    for (size_t step = 0; step < sinks_; ++step) {
      size_t a = sinks_;
      for (size_t b = 0; b < sinks_; ++b)
        if (!done_[b] && (a == sinks_ || distance_[b] < distance_[a])) a = b;
      done_[a] = 1;
      if (load_[a] == 0) continue;
      const int64_t* length = length_.data() + a * sinks_;
      const int64_t base = distance_[a] + height_[a];
      for (size_t b = 0; b < sinks_; ++b) {
        const int64_t through = base + length[b] - height_[b];
        if (done_[b] || through >= distance_[b]) continue;
        distance_[b] = through;
        before_[b] = static_cast<int32_t>(a);
      }
    }
    for (size_t b = 0; b < sinks_; ++b) height_[b] += distance_[b];
  }

  size_t nearest_with_room(size_t most) const {
    size_t best = sinks_;
    for (size_t b = 0; b < sinks_; ++b)
      if (load_[b] < most && (best == sinks_ || height_[b] < height_[best])) best = b;
    return best;
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
  std::vector<uint8_t> done_;
  std::vector<int64_t> length_;             // [E*E]
  std::vector<std::vector<Mover>> movers_;  // [E*E] the sources of a by what moving them to b loses, and some that left
  std::vector<int32_t> sink_;               // [N]
  std::vector<size_t> changed_;
};

}  // namespace

std::vector<int32_t> assign_evenly(std::span<const int64_t> gain, int sinks) { return Transport(gain, sinks).run(); }

}  // namespace choir::moe
