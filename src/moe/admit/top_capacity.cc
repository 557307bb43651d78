#include "moe/admit/top_capacity.h"

#include <algorithm>
#include <cmath>

namespace choir::moe {
namespace {

struct Candidate {
  float affinity;
  int32_t place;  // in the list of proposals: ascending with the token
};

// The candidates of each expert, by a counting sort; first[e] .. first[e+1]-1 are those of expert e.
struct Candidates {
  std::span<Candidate> list;
  std::span<int32_t> first;

  Candidates(const std::vector<int32_t>& chosen, std::span<const float> affinity, int experts, base::Frame& frame)
      : list(frame.list<Candidate>(chosen.size())), first(frame.list<int32_t>(static_cast<size_t>(experts) + 1)) {
    for (const int32_t e : chosen)
      if (e >= 0) ++first[static_cast<size_t>(e) + 1];
    for (int e = 0; e < experts; ++e) first[e + 1] += first[e];
    const std::span<int32_t> next = frame.list(first);
    for (size_t i = 0; i < chosen.size(); ++i)
      if (chosen[i] >= 0) list[next[chosen[i]]++] = {affinity[i], static_cast<int32_t>(i)};
  }
  std::span<Candidate> of(int e) const { return list.subspan(first[e], static_cast<size_t>(first[e + 1] - first[e])); }
};

// Higher affinity first, or lower; of equal ones the earlier; a NaN comes last.
template <bool kLower>
bool before(const Candidate& a, const Candidate& b) {
  if (a.affinity != b.affinity && !(std::isnan(a.affinity) && std::isnan(b.affinity)))
    return (kLower ? a.affinity < b.affinity : a.affinity > b.affinity) || std::isnan(b.affinity);
  return a.place < b.place;
}

}  // namespace

TopCapacity TopCapacity::read(Arguments& arguments) {
  TopCapacity word;
  word.bottom = arguments.flag("bottom");
  const std::string key = arguments.name("key", {"cos", "score", "prob"});
  word.key = key == "cos" ? Affinity::kCosine : key == "score" ? Affinity::kScore : Affinity::kProbability;
  word.reroute = arguments.name("drop", {"strict", "reroute"}) == "reroute";
  word.decode = arguments.name("decode", {"tcr", "threshold"}) == "tcr" ? Decode::kTokenChoice : Decode::kThreshold;
  word.capacity = Capacity::read(arguments.phrase("capacity"), arguments);
  word.floor = static_cast<float>(arguments.number("floor", -1, 1, -1));
  if (word.decode == Decode::kThreshold) {
    word.decay = static_cast<float>(arguments.number("theta_decay", 0, 0.999999, 0.99));
    if (word.bottom) arguments.refuse("decode=threshold keeps the highest, bottom the lowest");
  }
  if (word.floor > -1 && word.key != Affinity::kCosine) arguments.refuse("floor needs key=cos");
  return word;
}

std::string TopCapacity::text() const {
  const char* keys[] = {"", "key=score", "key=prob"};
  const bool threshold = decode == Decode::kThreshold;
  return written(kName, {capacity.text(), keys[static_cast<int>(key)], unless("floor", floor, -1),
                         reroute ? "drop=reroute" : "", bottom ? "bottom" : "", threshold ? "decode=threshold" : "",
                         threshold ? unless("theta_decay", decay, 0.99f) : ""});
}

void TopCapacity::admit(const Context& context, Routing& routing) const {
  const bool training = context.rule == Rule::kTraining;
  routing.affinity.clear();
  if (!training && decode == Decode::kTokenChoice && floor <= -1) return;
  base::Frame frame(context.threads);
  const Affinities affinity(key, context, routing, frame);
  std::vector<float>& mine = routing.affinity;
  mine.resize(routing.proposed.size());
  of_proposals(affinity, context, routing, mine);
  if (floor > -1)
    for (size_t i = 0; i < mine.size(); ++i)
      if (mine[i] < floor) routing.chosen[i] = -1;
  if (!training) {
    if (decode == Decode::kThreshold) admit_decoding(context, mine, routing);
    return mine.clear();
  }
  const int rows = context.tokens.rows();
  std::vector<int> room = capacity.of_experts(context, rows > 0 ? static_cast<int>(routing.chosen.size()) / rows : 0);
  routing.capacity = std::ranges::max(room);
  keep_best(context, mine, room, routing);
  if (reroute) send_on(context, affinity, room, routing);
}

void TopCapacity::admit_decoding(const Context& context, std::span<const float> affinity, Routing& routing) const {
  const std::span<const float> theta = context.state.subspan(static_cast<size_t>(capacity.state_size()));
  const std::span<const float> seen = theta.subspan(static_cast<size_t>(context.experts));
  for (size_t i = 0; i < affinity.size(); ++i) {
    const int32_t e = routing.chosen[i];
    if (e >= 0 && seen[static_cast<size_t>(e)] > 0 && affinity[i] < theta[static_cast<size_t>(e)])
      routing.chosen[i] = -1;
  }
}

void TopCapacity::keep_best(const Context& context, std::span<const float> affinity, std::vector<int>& room,
                            Routing& routing) const {
  base::Frame frame(context.threads);
  const Candidates candidates(routing.chosen, affinity, context.experts, frame);
  context.threads.for_each(context.experts, [&](int e) {
    const std::span<Candidate> mine = candidates.of(e);
    const auto kept = std::min(mine.size(), static_cast<size_t>(room[static_cast<size_t>(e)]));
    room[static_cast<size_t>(e)] -= static_cast<int>(kept);
    if (kept == mine.size()) return;
    const auto edge = mine.begin() + static_cast<std::ptrdiff_t>(kept);
    std::ranges::nth_element(mine, edge, bottom ? before<true> : before<false>);
    for (auto it = edge; it != mine.end(); ++it) routing.chosen[static_cast<size_t>(it->place)] = -1;
  });
}

// Dropped proposals in order of token and slot, each to the best expert that is none of the token's; not to a masked
// one or one of an unknown score.
void TopCapacity::send_on(const Context& context, const Affinities& affinity, std::vector<int> room,
                          Routing& routing) const {
  const Matrix<const float> z = routing.compared(context.tokens.rows(), context.experts);
  const size_t choices = z.rows > 0 ? routing.chosen.size() / static_cast<size_t>(z.rows) : 0;
  for (size_t i = 0; i < routing.chosen.size(); ++i) {
    if (routing.chosen[i] >= 0 || routing.proposed[i] < 0) continue;
    const auto t = static_cast<int>(i / choices);
    const size_t first = static_cast<size_t>(t) * choices;
    const auto mine = std::span(routing.chosen).subspan(first, choices),
               refused = std::span(routing.proposed).subspan(first, choices);
    const auto open = [&](int e) {
      return room[static_cast<size_t>(e)] > 0 && std::ranges::find(mine, e) == mine.end() &&
             std::ranges::find(refused, e) == refused.end() && !(floor > -1 && affinity.at(t, e) < floor);
    };
    int best = -1;
    float most = -HUGE_VALF;
    for (int e = 0; e < context.experts; ++e)
      if (z[t][e] > most && open(e)) {
        best = e;
        most = z[t][e];
      }
    if (best < 0) continue;
    routing.chosen[i] = best;
    --room[static_cast<size_t>(best)];
  }
}

// The threshold of an expert that cut nothing would be its smallest affinity; it says nothing about a limit, so it
// counts as no limit: minus the largest possible affinity pulls the track down. For cosines and probabilities that is
// -1 and 0; logits have no bound, and the smallest seen is taken.
void TopCapacity::observe(const Context& context, const Routing& routing, std::span<float> sums) const {
  if (context.rule == Rule::kDecode) return;  // nobody was cut and no cosines are at hand
  const std::vector<float>& affinity = routing.affinity;
  base::Frame frame(context.threads);
  if (capacity.state_size() > 0)
    capacity.observe(context, routing,
                     key == Affinity::kCosine ? std::span<const float>(affinity)
                                              : affinities(Affinity::kCosine, context, routing, frame),
                     sums);
  if (decode != Decode::kThreshold) return;
  const auto experts = static_cast<size_t>(context.experts);
  std::vector<float> last(experts, HUGE_VALF);
  std::vector<int> proposed(experts), kept(experts);
  for (size_t i = 0; i < affinity.size(); ++i) {
    const int32_t p = routing.proposed[i], e = routing.chosen[i];
    if (p >= 0) ++proposed[static_cast<size_t>(p)];
    if (e < 0 || e != p) continue;
    ++kept[static_cast<size_t>(e)];
    last[static_cast<size_t>(e)] = std::min(last[static_cast<size_t>(e)], affinity[i]);
  }
  const float open = key == Affinity::kProbability ? 0 : -1;
  const std::span<float> total = sums.subspan(Capacity::kSums);
  for (size_t e = 0; e < experts; ++e) {
    if (kept[e] == 0) continue;
    const bool cut = kept[e] < proposed[e];
    total[e] += cut || key == Affinity::kScore ? last[e] : std::min(open, last[e]);
    total[experts + e] += 1;
  }
}

void TopCapacity::update(std::span<const float> sums, std::span<float> state) const {
  capacity.update(sums, state);
  if (decode == Decode::kThreshold)
    track(decay, sums.subspan(Capacity::kSums), state.subspan(static_cast<size_t>(capacity.state_size())));
}

}  // namespace choir::moe
