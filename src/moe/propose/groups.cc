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
  base::Frame frame(context.threads);
  const int pieces = pieces_of(key.rows);
  const auto places = [&](int count) { return static_cast<size_t>(pieces) * static_cast<size_t>(count); };
  const std::span<float> worths = frame.list<float>(places(groups)), rows = frame.list<float>(places(key.cols));
  const std::span<int32_t> keeps = frame.list<int32_t>(places(keep));
  each_row_in_pieces(context, key, [&](int piece, int t) {
    const std::span<const float> z = key.row(t);
    const std::span<float> of_group = part_of(worths, pieces, piece), row = part_of(rows, pieces, piece);
    const std::span<int32_t> kept = part_of(keeps, pieces, piece), slots = slots_of(proposed, k, t);
    for (size_t g = 0; g < of_group.size(); ++g) of_group[g] = worth(z.subspan(g * size, size), top_two);
    kernels::top_k(of_group, kept);
    std::ranges::fill(row, -HUGE_VALF);
    for (const int32_t g : kept)
      std::ranges::copy(z.subspan(static_cast<size_t>(g) * size, size),
                        row.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(g) * size));
    kernels::top_k(row, slots);
    for (int32_t& e : slots)
      if (row[static_cast<size_t>(e)] == -HUGE_VALF) e = -1;
  });
}

}  // namespace choir::moe
