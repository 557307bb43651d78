#include "kernels/isa.h"

#include <algorithm>
#include <atomic>

namespace choir::kernels {
namespace {

Isa detect() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return __builtin_cpu_supports("avx512vnni") ? Isa::kVnni : Isa::kAvx512;
  if (__builtin_cpu_supports("x86-64-v3")) return Isa::kAvx2;
  return Isa::kPlain;
}

std::atomic<Isa> limit{Isa::kVnni};

}  // namespace

Isa best_isa() {
  static const Isa isa = detect();
  return std::min(isa, limit.load(std::memory_order_relaxed));
}

IsaLimit::IsaLimit(Isa most) : before_(limit.exchange(most, std::memory_order_relaxed)) {}
IsaLimit::~IsaLimit() { limit.store(before_, std::memory_order_relaxed); }

std::string_view name_of(Isa isa) {
  switch (isa) {
    case Isa::kVnni: return "avx512 with vnni";
    case Isa::kAvx512: return "avx512";
    case Isa::kAvx2: return "avx2";
    default: return "x86-64";
  }
}

}  // namespace choir::kernels
