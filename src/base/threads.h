// A fixed pool of threads that share out the iterations of a loop.
#pragma once

#include <memory>

namespace choir::base {

class Arena;
class Profile;

enum class Placement { kFree, kPinned };

// One loop runs at a time; the calling thread takes part. Iterations are handed out in order, one by one, so cut the
// work into pieces of at least some microseconds. Results must not depend on which thread runs an iteration.
class Threads {
 public:
  // 0 means one for each processor. Throws Error (usage) when the system refuses so many. Pinned threads, the calling
  // one among them, stay on a processor each, of different cores as far as there are so many; where the system refuses
  // that, they do not.
  explicit Threads(int count, Placement placement = Placement::kFree);
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  ~Threads();

  int count() const;

  // Calls body(i) for every i in [0, iterations) and returns when all are done. A body that throws stops the hand-out;
  // the first exception is thrown again here. Bodies must not call for_each themselves.
  template <class Body>
  void for_each(int iterations, const Body& body) {
    run(
        iterations, [](const void* b, int i) { (*static_cast<const Body*>(b))(i); }, &body);
  }

  // Who writes down what is computed with these threads (profile.h); nobody at first. Not to be changed in a loop.
  void watch(Profile* profile);
  Profile* profile() const { return profile_; }

  // Lists (arena.h) of the one thread that calls for_each; not for bodies.
  Arena& arena() const { return *arena_; }

 private:
  using Call = void (*)(const void* body, int i);
  void run(int iterations, Call call, const void* body);

  struct Pool;
  std::unique_ptr<Pool> pool_;
  std::unique_ptr<Arena> arena_;
  Profile* profile_ = nullptr;
};

}  // namespace choir::base
