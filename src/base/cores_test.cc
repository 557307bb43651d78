#include "base/cores.h"

#include <doctest/doctest.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <thread>

#include "base/threads.h"

namespace choir::base {
namespace {

TEST_CASE("cores: every processor that may be used, once") {
  const std::vector<int> all = processors();
  CHECK(!all.empty());
  CHECK(std::set<int>(all.begin(), all.end()).size() == all.size());
  cpu_set_t allowed;
  CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
  CHECK(static_cast<int>(all.size()) == CPU_COUNT(&allowed));
  for (const int p : all) CHECK(CPU_ISSET(p, &allowed));
}

TEST_CASE("cores: pinned threads stay on processors of their own") {
  std::thread([] {  // what it does to the calling thread ends with it
    const std::vector<int> all = processors();
    const int count = std::min(3, static_cast<int>(all.size()));
    Threads threads(count, Placement::kPinned);
    std::atomic<int> met{0};
    std::vector<int> where(static_cast<size_t>(count), -1);
    threads.for_each(count, [&](int i) {
      where[static_cast<size_t>(i)] = sched_getcpu();
      ++met;
      while (met < count) std::this_thread::yield();  // every thread takes one
    });
    CHECK(std::set<int>(where.begin(), where.end()).size() == where.size());
    for (const int p : where) CHECK(std::ranges::find(all, p) != all.end());
  })
      .join();
}

}  // namespace
}  // namespace choir::base
