// Which vector instructions this machine has, and how a kernel picks its version for them.
//
// A kernel is written once as an always_inline body over sixteen-lane vectors (vec.h) and compiled three times by
// three shells that differ in their target attribute alone. (target_clones would write the shells, but its resolvers
// run before the thread sanitizer is ready and crash.)
#pragma once

#include <string_view>

namespace choir::kernels {

// x86-64, x86-64-v3, x86-64-v4, v4 with AVX512_VNNI, and that with AVX512_BF16 where it multiplies faster than floats
// are multiplied: on AMD's processors twice as fast (measured on Zen 5), on Intel's servers half as fast.
enum class Isa { kPlain, kAvx2, kAvx512, kVnni, kBf16 };

Isa best_isa();  // of this machine, or the limit if that is lower
std::string_view name_of(Isa isa);

// While it lives, every kernel of the process runs the version for `most` or a lower one: so the tests see all versions
// on one machine. Not to be made or destroyed while kernels run.
class IsaLimit {
 public:
  explicit IsaLimit(Isa most);
  IsaLimit(const IsaLimit&) = delete;
  IsaLimit& operator=(const IsaLimit&) = delete;
  ~IsaLimit();

 private:
  Isa before_;
};

template <class Function>
struct Versions {
  Function *plain, *avx2, *avx512;
  Function* vnni = avx512;  // products of bytes alone have one
  Function* bf16 = vnni;    // and products of BF16

  Function* at(Isa isa) const {
    if (isa == Isa::kBf16) return bf16;
    return isa == Isa::kVnni ? vnni : isa == Isa::kAvx512 ? avx512 : isa == Isa::kAvx2 ? avx2 : plain;
  }
  template <class... Arguments>
  void operator()(Arguments&&... arguments) const {
    at(best_isa())(arguments...);
  }
};

}  // namespace choir::kernels

#define CHOIR_INLINE [[gnu::always_inline]] inline
#define CHOIR_AVX2 [[gnu::target("arch=x86-64-v3")]]
#define CHOIR_AVX512 [[gnu::target("arch=x86-64-v4,prefer-vector-width=512")]]
