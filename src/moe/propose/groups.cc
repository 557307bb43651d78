#include "moe/propose/groups.h"

#include "kernels/top_k.h"
#include "moe/propose/ranking.h"

namespace choir::moe {
namespace {

bool above(float a, float b) { return a > b || (std::isnan(b) && !std::isnan(a)); }

// The best of the members, or the sum of the two best.
float worth(std::span<const float> members, bool top_two) {
  float first = -HUGE_VALF, second = -HUGE_VALF;
  for (const float z : members) {
    if (above(z, first)) {
      second = first;
      first = z;
    } else if (above(z, second)) {
      second = z;
    }
  }
  return top_two && members.size() > 1 ? first + second : first;
}

struct Scratch {
  std::vector<float> worth, row;
  std::vector<int32_t> kept;
};

}  // namespace

Groups Groups::read(Arguments& arguments) {
  Groups word;
  word.top_two = arguments.name("by", {"max", "top2"}) == "top2";
  word.groups = arguments.whole("groups", 1, 4096);
  word.keep = arguments.whole("keep", 1, word.groups);
  word.k = arguments.whole("k", 1, 4096);
  return word;
}

std::string Groups::text() const {
  return written(kName, {std::to_string(groups), std::to_string(keep), std::to_string(k), top_two ? "by=top2" : ""});
}

std::string Groups::misfit(int experts, int) const {
  if (experts % groups != 0) return std::to_string(groups) + " groups cannot share them evenly";
  if (experts / groups * keep < k) return "the kept groups hold fewer than " + std::to_string(k);
  return "";
}

void Groups::propose(const Context& context, Matrix<const float> key, std::vector<int32_t>& proposed) const {
  empty_slots(key.rows, k, proposed);
  const auto size = static_cast<size_t>(key.cols / groups);
  each_row<Scratch>(context, key, [&](int t, Scratch& s) {
    const std::span<const float> z = key.row(t);
    s.worth.resize(static_cast<size_t>(groups));
    s.kept.resize(static_cast<size_t>(keep));
    s.row.assign(z.size(), -HUGE_VALF);
    for (size_t g = 0; g < s.worth.size(); ++g) s.worth[g] = worth(z.subspan(g * size, size), top_two);
    kernels::top_k(s.worth, s.kept);
    for (const int32_t g : s.kept)
      std::ranges::copy(z.subspan(static_cast<size_t>(g) * size, size),
                        s.row.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(g) * size));
    const std::span<int32_t> slots = slots_of(proposed, k, t);
    kernels::top_k(s.row, slots);
    for (int32_t& e : slots)
      if (s.row[static_cast<size_t>(e)] == -HUGE_VALF) e = -1;
  });
}

}  // namespace choir::moe
