#include "base/arena.h"

#include <bit>
#include <new>

#include "base/error.h"
#include "base/threads.h"

namespace choir::base {
namespace {

constexpr size_t kAlignment = 64;

size_t rounded_up(size_t bytes, size_t step) { return (bytes + step - 1) / step * step; }

}  // namespace

struct Arena::Block {
  struct Release {
    void operator()(std::byte* data) const { ::operator delete(data, std::align_val_t(kAlignment)); }
  };
  explicit Block(size_t bytes)
      : data(static_cast<std::byte*>(::operator new(bytes, std::align_val_t(kAlignment)))), size(bytes) {}

  std::unique_ptr<std::byte, Release> data;
  size_t size;
};

Arena::Arena() = default;
Arena::~Arena() = default;

std::byte* Arena::take(size_t bytes) {
  bytes = rounded_up(bytes, kAlignment);
  if (blocks_.empty() || used_ + bytes > blocks_.back().size) {
    blocks_.emplace_back(bytes);
    used_ = 0;
  }
  std::byte* const from = blocks_.back().data.get() + used_;
  used_ += bytes;
  taken_ += bytes;
  most_ = std::max(most_, taken_);
  return from;
}

Frame::Frame(Threads& threads)
    : arena_(threads.arena()),
      below_(arena_.top_),
      blocks_(arena_.blocks_.size()),
      used_(arena_.used_),
      taken_(arena_.taken_) {
  arena_.top_ = this;
}

// The last frame leaves one block, for all that was ever taken at once and some more: calls differ a little.
Frame::~Frame() {
  while (arena_.blocks_.size() > std::max<size_t>(blocks_, 1)) arena_.blocks_.pop_back();
  arena_.used_ = used_;
  arena_.taken_ = taken_;
  arena_.top_ = below_;
  if (below_ || arena_.most_ == 0 || arena_.blocks_[0].size >= arena_.most_) return;
  arena_.blocks_.clear();
  try {
    arena_.blocks_.emplace_back(rounded_up(arena_.most_, std::max(kAlignment, std::bit_ceil(arena_.most_) / 8)));
  } catch (const std::bad_alloc&) {  // the next list asks again, where that may throw
  }
}

std::byte* Frame::take(size_t bytes) {
  CHOIR_CHECK(arena_.top_ == this, "a list of a frame that is not the latest");
  return arena_.take(bytes);
}

}  // namespace choir::base
