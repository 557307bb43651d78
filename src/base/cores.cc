#include "base/cores.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <string>

namespace choir::base {
namespace {

// What names the core of a processor: the list of all its processors. Without one every processor is a core.
std::string core_of(int processor) {
  const std::string number = std::to_string(processor);
  std::ifstream file("/sys/devices/system/cpu/cpu" + number + "/topology/thread_siblings_list");
  std::string siblings;
  return std::getline(file, siblings) ? siblings : number;
}

}  // namespace

std::vector<int> processors() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  std::vector<int> first, rest;
  if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) return first;
  std::set<std::string> cores;
  for (int p = 0; p < CPU_SETSIZE; ++p)
    if (CPU_ISSET(p, &allowed)) (cores.insert(core_of(p)).second ? first : rest).push_back(p);
  first.insert(first.end(), rest.begin(), rest.end());
  return first;
}

bool stay_on(int processor) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(processor, &one);
  return ::sched_setaffinity(0, sizeof one, &one) == 0;
}

}  // namespace choir::base
