#include "kernels/isa.h"

#include <algorithm>
#include <atomic>

namespace choir::kernels {
namespace {

Isa detect() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return Isa::kAvx512;
  if (__builtin_cpu_supports("x86-64-v3")) return Isa::kAvx2;
  return Isa::kPlain;
}

std::atomic<Isa> limit{Isa::kAvx512};

}  // namespace

Isa best_isa() {
  static const Isa isa = detect();
  return std::min(isa, limit.load(std::memory_order_relaxed));
}

IsaLimit::IsaLimit(Isa most) : before_(limit.exchange(most, std::memory_order_relaxed)) {}
IsaLimit::~IsaLimit() { limit.store(before_, std::memory_order_relaxed); }

std::string_view name_of(Isa isa) { return isa == Isa::kAvx512 ? "avx512" : isa == Isa::kAvx2 ? "avx2" : "x86-64"; }

}  // namespace choir::kernels
