#include "compress/bound.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace choir::compress {
namespace {

using Over = moe::SubsetRule::Over;

constexpr double kMostChoices = 200;  // of a token that are tried one by one
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// At most so many ways to choose k of the open experts of a token, in order, with at most `drops` passed over.
double choices(int open, int k, int drops) {
  const int chosen = std::min(k, open), passed = std::min(drops, open);
  double paths = 1;
  for (int i = 1; i <= passed && paths <= kMostChoices; ++i) paths = paths * (chosen + i) / i;
  return std::min(paths, std::exp2(open));
}

// What is decided, and what still may be.
struct Partial {
  std::span<const Fate> fate;
  int keeps = 0, drops = 0;  // how many open experts stay and go

  Partial(std::span<const Fate> f, int keep) : fate(f) {
    keeps = keep - static_cast<int>(std::ranges::count(f, Fate::kKept));
    drops = static_cast<int>(f.size()) - keep - static_cast<int>(std::ranges::count(f, Fate::kDropped));
    CHOIR_CHECK(keeps >= 0 && drops >= 0, "a partial set that a set of the size can agree with");
  }
};

// The bound of one token after another; the vectors are room that is used again.
class TokenBound {
 public:
  TokenBound(const LayerRecord& record, const Target& target, const Partial& partial)
      : record_(record), target_(target), partial_(partial) {}

  double of(int token);

 private:
  struct Walk {
    int keeps, drops;
    double alpha = 0, beta = 0, low = 0, high = 0;  // low, high: what the divisor may be, where all count
  };

  void collect();
  void walk(size_t place, const Walk& at);
  void choose(int rank, Walk& at) const;
  double ended(const Walk& at) const;
  double distance();
  double dropped_product(int rank) const;

  Fate fate(int rank) const { return partial_.fate[order_[rank]]; }
  double p(int rank) const { return record_.gains(token_)[order_[rank]]; }

  const LayerRecord& record_;
  const Target& target_;
  const Partial& partial_;
  int token_ = 0, open_ = 0;  // open_: how many candidates are open
  const int32_t* order_ = nullptr;
  Choice own_;
  std::vector<int> candidates_;  // ranks that it may still use, ascending
  std::vector<int> chosen_, lost_;
  std::vector<double> factor_, solution_;
  double least_ = 0;
};

// Ranks behind the k-th expert that surely stays are never used, but within groups.
void TokenBound::collect() {
  candidates_.clear();
  open_ = 0;
  int sure = 0;
  for (int r = 0; r < record_.ranks && (record_.rule.groups > 1 || sure < record_.rule.k); ++r) {
    if (fate(r) == Fate::kDropped) continue;
    candidates_.push_back(r);
    ++(fate(r) == Fate::kKept ? sure : open_);
  }
}

double TokenBound::of(int token) {
  token_ = token;
  order_ = record_.ranking(token).data();
  collect();
  if (record_.rule.groups > 1 || choices(open_, record_.rule.k, partial_.drops) > kMostChoices) {
    own_ = own_choice(record_, token);
    return distance();
  }
  Walk start{partial_.keeps, partial_.drops};
  for (int e = 0; e < record_.experts && record_.rule.over == Over::kAll; ++e) {
    const double mass = record_.gains(token)[e];
    if (partial_.fate[e] == Fate::kKept) start.low += mass;
    if (partial_.fate[e] != Fate::kDropped) start.high += mass;
  }
  least_ = kInfinity;
  chosen_.clear();
  walk(0, start);
  return least_;
}

void TokenBound::choose(int rank, Walk& at) const {
  double pull = p(rank) * record_.product(token_, rank, rank);
  for (const int other : chosen_) pull += 2 * p(other) * record_.product(token_, other, rank);
  at.alpha += p(rank) * target_.g[static_cast<size_t>(token_) * static_cast<size_t>(record_.ranks) + rank];
  at.beta += p(rank) * pull;
}

// Every way to choose: an expert that stays is taken, an open one is taken or passed over.
void TokenBound::walk(size_t place, const Walk& at) {
  if (chosen_.size() == static_cast<size_t>(record_.rule.k) || place == candidates_.size()) {
    least_ = std::min(least_, ended(at));
    return;
  }
  const int rank = candidates_[place];
  const bool open = fate(rank) == Fate::kOpen;
  if (!open || at.keeps > 0) {
    Walk with = at;
    choose(rank, with);
    if (open) {
      --with.keeps;
      with.low += p(rank);
    }
    chosen_.push_back(rank);
    walk(place + 1, with);
    chosen_.pop_back();
  }
  if (open && at.drops > 0) {
    Walk without = at;
    --without.drops;
    without.high -= p(rank);
    walk(place + 1, without);
  }
}

// Where all that stay are divided by, the best divisor that they may still have: the error is a parabola in the gain.
double TokenBound::ended(const Walk& at) const {
  const double zz = target_.zz[token_], scale = record_.rule.scale;
  double sum = 1;
  if (record_.rule.over == Over::kChosen) {
    sum = 0;
    for (const int r : chosen_) sum += p(r);
  }
  if (record_.rule.over == Over::kAll) {
    if (at.beta <= 0) return zz;
    const double high = std::max(at.high, at.low);
    sum = at.alpha > 0 ? std::clamp(scale * at.beta / at.alpha, at.low, high) : high;
  }
  return error_of(zz, at.alpha, at.beta, scale, sum);
}

// <f_rank, what the dropped experts gave>
double TokenBound::dropped_product(int rank) const {
  double sum = 0;
  for (const int i : lost_) sum += own_.gain[i] * record_.product(token_, rank, own_.rank[i]);
  return sum;
}

// |d|^2 - |y|^2 where L L^T is the Gram matrix of the candidates and L y their products with d, the dropped part. An
// answer that hardly leaves the span of those before it is left out of the span; what it can do is at most its gain,
// at most the scale, times its distance to them, and that comes off the distance.
double TokenBound::distance() {
  constexpr double kFlat = 1e-6;  // of its squared length
  lost_.clear();
  for (size_t i = 0; i < own_.rank.size(); ++i)
    if (fate(own_.rank[i]) == Fate::kDropped) lost_.push_back(static_cast<int>(i));
  if (lost_.empty()) return 0;
  double left = 0, aside = 0;
  for (const int i : lost_) left += own_.gain[i] * dropped_product(own_.rank[i]);
  const size_t width = candidates_.size();
  factor_.resize(width * width);
  solution_.resize(width);
  std::vector<int>& basis = chosen_;
  basis.clear();
  for (const int rank : candidates_) {
    double* row = factor_.data() + basis.size() * width;
    double y = dropped_product(rank), square = record_.product(token_, rank, rank);
    const double flat = kFlat * square;
    for (size_t j = 0; j < basis.size(); ++j) {
      const double* other = factor_.data() + j * width;
      double sum = record_.product(token_, rank, basis[j]);
      for (size_t i = 0; i < j; ++i) sum -= row[i] * other[i];
      row[j] = sum / other[j];
      square -= row[j] * row[j];
      y -= row[j] * solution_[j];
    }
    if (square <= flat) {
      aside += record_.rule.scale * std::sqrt(flat);
      continue;
    }
    row[basis.size()] = std::sqrt(square);
    solution_[basis.size()] = y / row[basis.size()];
    left -= solution_[basis.size()] * solution_[basis.size()];
    basis.push_back(rank);
  }
  const double apart = std::max(std::sqrt(std::max(left, 0.0)) - aside, 0.0);
  return apart * apart;
}

// A partial set in the search.
struct Node {
  double bound;
  int64_t number;  // of equal bounds the later one is opened first: it has more decided
  std::vector<Fate> fate;
};

bool later(const Node& a, const Node& b) { return a.bound != b.bound ? a.bound > b.bound : a.number < b.number; }

// Branch and bound over the experts of a layer.
class Branching {
 public:
  Branching(Replay& replay, const LossBound& bound, const std::vector<int>& start);
  Proof run(int64_t most_nodes);

 private:
  void branch(const Node& node, Fate fate);
  void settle(std::vector<Fate>& fate) const;
  bool beaten(double bound) const { return bound >= proof_.best.loss * (1 - 1e-9); }

  Replay& replay_;
  const LossBound& bound_;
  int keep_, groups_, size_;
  std::vector<int> order_;  // who is decided first
  std::vector<Node> heap_;
  Proof proof_;
};

// Whoever would be missed most is decided first: the partial sets without it are soon beaten. Then those that are out,
// whoever would help most first.
Branching::Branching(Replay& replay, const LossBound& bound, const std::vector<int>& start)
    : replay_(replay),
      bound_(bound),
      keep_(static_cast<int>(start.size())),
      groups_(replay.record().rule.groups),
      size_(replay.record().experts / groups_) {
  replay.keep(start);
  proof_.best = {start, replay.loss()};
  const std::vector<double> removed = replay.removals(), added = replay.additions();
  for (int e = 0; e < replay.record().experts; ++e) order_.push_back(e);
  std::ranges::stable_sort(order_, [&](int a, int b) {
    if (replay.kept()[a] != replay.kept()[b]) return replay.kept()[a] > replay.kept()[b];
    return replay.kept()[a] ? removed[a] > removed[b] : added[a] < added[b];
  });
}

// Of a group that has all its kept or all its dropped ones the rest is decided too.
void Branching::settle(std::vector<Fate>& fate) const {
  for (int g = 0; g < groups_; ++g) {
    const std::span<Fate> group = std::span(fate).subspan(static_cast<size_t>(g * size_), static_cast<size_t>(size_));
    const auto kept = std::ranges::count(group, Fate::kKept), dropped = std::ranges::count(group, Fate::kDropped);
    if (kept == keep_ / groups_) std::ranges::replace(group, Fate::kOpen, Fate::kDropped);
    if (dropped == size_ - keep_ / groups_) std::ranges::replace(group, Fate::kOpen, Fate::kKept);
  }
}

void Branching::branch(const Node& node, Fate fate) {
  Node child = node;
  for (const int e : order_)
    if (child.fate[e] == Fate::kOpen) {
      child.fate[e] = fate;
      break;
    }
  settle(child.fate);
  if (!std::ranges::count(child.fate, Fate::kOpen)) {
    std::vector<int> kept;
    for (size_t e = 0; e < child.fate.size(); ++e)
      if (child.fate[e] == Fate::kKept) kept.push_back(static_cast<int>(e));
    replay_.keep(kept);
    if (replay_.loss() < proof_.best.loss) proof_.best = {kept, replay_.loss()};
    return;
  }
  child.bound = std::max(node.bound, bound_.of(child.fate, keep_));
  child.number = ++proof_.nodes;
  if (beaten(child.bound)) return;
  heap_.push_back(std::move(child));
  std::ranges::push_heap(heap_, later);
}

Proof Branching::run(int64_t most_nodes) {
  std::vector<Fate> open(order_.size(), Fate::kOpen);
  for (const int e : replay_.record().pinned) open[static_cast<size_t>(e)] = Fate::kKept;
  settle(open);
  if (std::ranges::count(open, Fate::kOpen)) heap_.push_back({bound_.of(open, keep_), ++proof_.nodes, open});
  while (!heap_.empty() && !beaten(heap_.front().bound) && proof_.nodes < most_nodes) {
    std::ranges::pop_heap(heap_, later);
    const Node node = std::move(heap_.back());
    heap_.pop_back();
    branch(node, Fate::kDropped);
    branch(node, Fate::kKept);
  }
  proof_.proved = heap_.empty() || beaten(heap_.front().bound);
  proof_.bound = proof_.proved ? proof_.best.loss : heap_.front().bound;
  return proof_;
}

}  // namespace

LossBound::LossBound(const LayerRecord& record, std::span<const double> weight, Threads& threads)
    : record_(record), weight_(weight), threads_(threads), target_(target_of(record, threads)) {
  CHOIR_CHECK(weight.empty() || static_cast<int>(weight.size()) == record.tokens(), "one weight for each token");
}

double LossBound::of(std::span<const Fate> fate, int keep) const {
  constexpr int kPiece = 64;  // tokens whose bounds are made by one thread
  const int pieces = (record_.tokens() + kPiece - 1) / kPiece;
  const Partial partial(fate, keep);
  std::vector<double> parts(static_cast<size_t>(pieces), 0.0);
  threads_.for_each(pieces, [&](int piece) {
    TokenBound bound(record_, target_, partial);
    for (int t = piece * kPiece; t < std::min(record_.tokens(), (piece + 1) * kPiece); ++t)
      parts[piece] += (weight_.empty() ? 1 : weight_[t]) * bound.of(t);
  });
  double sum = 0;
  for (const double part : parts) sum += part;
  return sum;
}

Proof prove(Replay& replay, const LossBound& bound, const std::vector<int>& start, int64_t most_nodes) {
  check_keep(replay.record(), static_cast<int>(start.size()));
  Branching branching(replay, bound, start);
  return branching.run(most_nodes);
}

}  // namespace choir::compress
