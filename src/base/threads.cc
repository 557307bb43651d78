#include "base/threads.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/arena.h"
#include "base/cores.h"
#include "base/error.h"
#include "base/profile.h"

namespace choir::base {
namespace {

constexpr int kSpins = 4000;  // some microseconds: the pause between two loops of one step is shorter than a wake-up

void pause_briefly(int spin) {
  if (spin % 64 == 63)
    std::this_thread::yield();
  else
    __builtin_ia32_pause();
}

// From its first iteration of a loop to its end a thread is busy.
class BusyTime {
 public:
  BusyTime(Profile* profile, int thread) : profile_(profile), thread_(thread) {
    if (profile_) [[unlikely]]
      begin_ = profile_->now();
  }
  BusyTime(const BusyTime&) = delete;
  BusyTime& operator=(const BusyTime&) = delete;
  ~BusyTime() {
    if (profile_) [[unlikely]]
      profile_->add_busy(thread_, begin_);
  }

 private:
  Profile* profile_;
  int thread_;
  int64_t begin_ = 0;
};

}  // namespace

struct Threads::Pool {
  std::vector<std::thread> workers;
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<unsigned> round{0};  // odd or even does not matter: a change is a new loop
  std::atomic<bool> stop{false};
  std::atomic<int> next{0}, busy{0};
  int iterations = 0;
  Call call = nullptr;
  const void* body = nullptr;
  Profile* profile = nullptr;
  std::exception_ptr failure;

  int take() { return next.fetch_add(1, std::memory_order_relaxed); }

  void take_iterations(int thread) {
    int i = take();
    if (i >= iterations) return;
    const BusyTime busy_time(profile, thread);
    try {
      for (; i < iterations; i = take()) call(body, i);
    } catch (...) {
      next.store(iterations, std::memory_order_relaxed);
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  }

  void wait_for_round(unsigned seen) {
    for (int spin = 0; spin < kSpins; ++spin) {
      if (round.load(std::memory_order_acquire) != seen) return;
      pause_briefly(spin);
    }
    std::unique_lock lock(mutex);
    wake.wait(lock, [&] { return round.load(std::memory_order_acquire) != seen; });
  }

  void work(int thread) {
    for (unsigned seen = 0;;) {
      wait_for_round(seen);
      if (stop.load(std::memory_order_acquire)) return;
      ++seen;
      take_iterations(thread);
      busy.fetch_sub(1, std::memory_order_release);
    }
  }

  ~Pool() {
    stop.store(true, std::memory_order_release);
    start_round();
    for (std::thread& worker : workers) worker.join();
  }

  void start_round() {
    {
      const std::lock_guard lock(mutex);
      round.fetch_add(1, std::memory_order_release);
    }
    wake.notify_all();
  }
};

Threads::Threads(int count, Placement placement) : pool_(std::make_unique<Pool>()), arena_(std::make_unique<Arena>()) {
  const std::vector<int> places = placement == Placement::kPinned ? processors() : std::vector<int>();
  const auto settle = [places](int i) {
    if (!places.empty()) stay_on(places[static_cast<size_t>(i) % places.size()]);
  };
  if (count <= 0) count = static_cast<int>(std::thread::hardware_concurrency());
  try {
    for (int i = 1; i < count; ++i)
      pool_->workers.emplace_back([pool = pool_.get(), settle, i] {
        settle(i);
        pool->work(i);
      });
  } catch (const std::system_error& refusal) {
    usage_error("cannot start " + std::to_string(count) + " threads", refusal.what(), "ask for fewer");
  }
  settle(0);
}

Threads::~Threads() = default;

void Threads::watch(Profile* profile) { profile_ = profile; }

int Threads::count() const { return static_cast<int>(pool_->workers.size()) + 1; }

void Threads::run(int iterations, Call call, const void* body) {
  Pool& pool = *pool_;
  if (iterations <= 1 || pool.workers.empty()) {
    const BusyTime busy_time(profile_, 0);
    for (int i = 0; i < iterations; ++i) call(body, i);
    return;
  }
  pool.call = call;
  pool.body = body;
  pool.profile = profile_;
  pool.iterations = iterations;
  pool.next.store(0, std::memory_order_relaxed);
  pool.busy.store(static_cast<int>(pool.workers.size()), std::memory_order_relaxed);
  pool.start_round();
  pool.take_iterations(0);
  for (int spin = 0; pool.busy.load(std::memory_order_acquire) != 0; ++spin) pause_briefly(spin);
  if (pool.failure) std::rethrow_exception(std::exchange(pool.failure, nullptr));
}

}  // namespace choir::base
