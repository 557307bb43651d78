#include "tensor/buffer.h"

#include <sys/mman.h>

#include <new>

namespace choir::tensor {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr std::align_val_t kLine{64};

bool wants_huge_pages(size_t bytes) { return bytes >= 4 * kHugePage; }
std::align_val_t alignment(size_t bytes) { return wants_huge_pages(bytes) ? std::align_val_t{kHugePage} : kLine; }

}  // namespace

void* allocate(size_t bytes) {
  void* memory = ::operator new(bytes, alignment(bytes));
  if (wants_huge_pages(bytes)) ::madvise(memory, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);  // or it stays as it is
  return memory;
}

void release(void* memory, size_t bytes) { ::operator delete(memory, alignment(bytes)); }

}  // namespace choir::tensor
