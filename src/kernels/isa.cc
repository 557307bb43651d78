#include "kernels/isa.h"

#include <algorithm>
#include <atomic>

namespace choir::kernels {
namespace {

Isa detect() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512vnni"))
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_is("amd") ? Isa::kBf16 : Isa::kVnni;
  if (__builtin_cpu_supports("x86-64-v4")) return Isa::kAvx512;
  if (__builtin_cpu_supports("x86-64-v3")) return Isa::kAvx2;
  return Isa::kPlain;
}

std::atomic<Isa> limit{Isa::kBf16};

}  // namespace

Isa best_isa() {
  static const Isa isa = detect();
  return std::min(isa, limit.load(std::memory_order_relaxed));
}

IsaLimit::IsaLimit(Isa most) : before_(limit.exchange(most, std::memory_order_relaxed)) {}
IsaLimit::~IsaLimit() { limit.store(before_, std::memory_order_relaxed); }

std::string_view name_of(Isa isa) {
  switch (isa) {
    case Isa::kBf16: return "avx512 with vnni and bf16";
    case Isa::kVnni: return "avx512 with vnni";
    case Isa::kAvx512: return "avx512";
    case Isa::kAvx2: return "avx2";
    default: return "x86-64";
  }
}

}  // namespace choir::kernels
