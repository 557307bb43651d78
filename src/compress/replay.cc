#include "compress/replay.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace choir::compress {
namespace {

constexpr int kPiece = 256;  // tokens whose sums are made by one thread

size_t at(int row, size_t width) { return static_cast<size_t>(row) * width; }

}  // namespace

Replay::Replay(const LayerRecord& record, std::span<const double> weight, Threads& threads)
    : record_(record),
      weight_(weight),
      threads_(threads),
      k_(static_cast<size_t>(record.rule.k)),
      m_(static_cast<size_t>(record.ranks)),
      kept_(static_cast<size_t>(record.experts), 1),
      count_(record.experts),
      target_(target_of(record, threads)) {
  const int tokens = record.tokens();
  CHOIR_CHECK(weight.empty() || static_cast<int>(weight.size()) == tokens, "one weight for each token");
  CHOIR_CHECK(!grouped() || record.ranks == record.experts, "choices within groups need every rank");
  rank_.assign(at(tokens, kept_.size()), record.ranks);
  h_.resize(at(tokens, m_));
  chosen_.resize(at(tokens, k_));
  count_of_.resize(static_cast<size_t>(tokens));
  state_.resize(static_cast<size_t>(tokens));
  find_ranks();
  settle_all();
}

double Replay::p(int t, int rank) const { return record_.gains(t)[record_.ranking(t)[static_cast<size_t>(rank)]]; }

bool Replay::is_chosen(int t, int rank) const { return std::ranges::binary_search(chosen(t), rank); }

void Replay::find_ranks() {
  for (int t = 0; t < record_.tokens(); ++t) {
    const auto ranking = record_.ranking(t);
    for (int r = 0; r < record_.ranks; ++r) rank_[at(t, kept_.size()) + static_cast<size_t>(ranking[r])] = r;
  }
}

// The choice of one token under the kept set, and what the O(1) steps read.
void Replay::settle(int t) {
  State& state = state_[t];
  const std::span<int> room(chosen_.data() + at(t, k_), k_);
  const auto rank = room.first(count_of_[t] = chosen_ranks(record_, t, kept_, room));
  state = {.divisor = divisor(record_, t, kept_, rank)};
  state.short_of = rank.size() < k_ && record_.ranks < record_.experts;
  const std::span<double> products = std::span(h_).subspan(at(t, m_), m_);
  std::ranges::fill(products, 0.0);
  for (const int i : rank) record_.add_products(t, i, p(t, i), products);
  for (const int i : rank) {
    state.alpha += p(t, i) * g(t, i);
    state.beta += p(t, i) * h(t, i);
  }
  const int last = rank.empty() ? -1 : rank.back();
  for (int r = last + 1; r < record_.ranks && state.next < 0; ++r)
    if (kept_[record_.ranking(t)[r]]) state.next = r;
  state.error = after(t, {});
}

void Replay::settle_all() {
  threads_.for_each((record_.tokens() + kPiece - 1) / kPiece, [&](int piece) {
    for (int t = piece * kPiece; t < std::min(record_.tokens(), (piece + 1) * kPiece); ++t) settle(t);
  });
  loss_ = sum_over_tokens(1, [&](int t, std::span<double> sum) { sum[0] += weight(t) * state_[t].error; })[0];
}

// Experts that came or went touch the tokens that choose them, that would next, or that divide by them.
void Replay::settle_touched(std::span<const int> experts) {
  const auto touched = [&](int t) {
    if (grouped() || over_all()) return true;
    const int last = count_of_[t] < k_ || state_[t].next < 0 ? record_.ranks - 1 : state_[t].next;
    return std::ranges::any_of(experts,
                               [&](int e) { return rank_[at(t, kept_.size()) + static_cast<size_t>(e)] <= last; });
  };
  threads_.for_each((record_.tokens() + kPiece - 1) / kPiece, [&](int piece) {
    for (int t = piece * kPiece; t < std::min(record_.tokens(), (piece + 1) * kPiece); ++t)
      if (touched(t)) settle(t);
  });
  loss_ = sum_over_tokens(1, [&](int t, std::span<double> sum) { sum[0] += weight(t) * state_[t].error; })[0];
}

void Replay::keep(const std::vector<int>& kept) {
  std::ranges::fill(kept_, uint8_t{0});
  for (const int e : kept) kept_[static_cast<size_t>(e)] = 1;
  count_ = static_cast<int>(kept.size());
  settle_all();
}

void Replay::remove(int expert) {
  CHOIR_CHECK(kept_[static_cast<size_t>(expert)], "an expert that is there");
  kept_[static_cast<size_t>(expert)] = 0;
  --count_;
  settle_touched({&expert, 1});
}

void Replay::add(int expert) {
  CHOIR_CHECK(!kept_[static_cast<size_t>(expert)], "an expert that is out");
  kept_[static_cast<size_t>(expert)] = 1;
  ++count_;
  settle_touched({&expert, 1});
}

void Replay::swap(int out, int in) {
  CHOIR_CHECK(kept_[static_cast<size_t>(out)] && !kept_[static_cast<size_t>(in)], "one that is there, one that is out");
  kept_[static_cast<size_t>(out)] = 0;
  kept_[static_cast<size_t>(in)] = 1;
  settle_touched(std::array{out, in});
}

int64_t Replay::short_of() const {
  return std::ranges::count_if(state_, [](const State& state) { return state.short_of; });
}

// docs/compress.md, C11, with what the change makes of alpha, beta and P.
double Replay::after(int t, const Change& change) const {
  const State& state = state_[t];
  double alpha = state.alpha, beta = state.beta, divisor = state.divisor + change.divisor;
  const double leaves = change.out < 0 ? 0 : p(t, change.out), enters = change.in < 0 ? 0 : p(t, change.in);
  if (change.out >= 0) {
    alpha -= leaves * g(t, change.out);
    beta += leaves * leaves * record_.product(t, change.out, change.out) - 2 * leaves * h(t, change.out);
  }
  if (change.in >= 0) {
    alpha += enters * g(t, change.in);
    beta += enters * enters * record_.product(t, change.in, change.in) + 2 * enters * h(t, change.in);
  }
  if (change.out >= 0 && change.in >= 0) beta -= 2 * leaves * enters * record_.product(t, change.out, change.in);
  if (record_.rule.over == moe::SubsetRule::Over::kChosen) divisor += enters - leaves;
  return error_of(target_.zz[t], alpha, beta, record_.rule.scale, divisor);
}

Replay::Change Replay::removal(int t, int rank) const {
  Change change;
  if (is_chosen(t, rank)) change = {.out = rank, .in = state_[t].next};
  return change;
}

Replay::Change Replay::addition(int t, int rank) const {
  if (count_of_[t] < k_) return {.in = rank};
  const int worst = chosen(t).back();
  return rank < worst ? Change{.out = worst, .in = rank} : Change{};
}

Replay::Change Replay::exchange(int t, int out, int in) const {
  if (!is_chosen(t, out)) return addition(t, in);
  const int next = state_[t].next;
  return {.out = out, .in = next < 0 || in < next ? in : next};
}

// Within groups: the error of the token routed again without `out` and with `in`; -1: nobody.
double Replay::rerouted(int t, int out, int in) const {
  std::vector<uint8_t> kept = kept_;
  if (out >= 0) kept[static_cast<size_t>(out)] = 0;
  if (in >= 0) kept[static_cast<size_t>(in)] = 1;
  std::vector<int> room(k_);
  const auto rank = std::span(room).first(chosen_ranks(record_, t, kept, room));
  double alpha = 0, beta = 0;
  for (const int i : rank) {
    alpha += p(t, i) * g(t, i);
    for (const int j : rank) beta += p(t, i) * p(t, j) * record_.product(t, i, j);
  }
  return error_of(target_.zz[t], alpha, beta, record_.rule.scale, divisor(record_, t, kept, rank));
}

// function(token, sums) adds to sums of `size`; pieces of tokens are added up in order.
template <class Function>
std::vector<double> Replay::sum_over_tokens(size_t size, const Function& function) const {
  const int pieces = (record_.tokens() + kPiece - 1) / kPiece;
  std::vector<std::vector<double>> parts(static_cast<size_t>(pieces));
  threads_.for_each(pieces, [&](int piece) {
    std::vector<double>& part = parts[static_cast<size_t>(piece)];
    part.assign(size, 0.0);
    for (int t = piece * kPiece; t < std::min(record_.tokens(), (piece + 1) * kPiece); ++t)
      function(t, std::span<double>(part));
  });
  std::vector<double> sum(size, 0.0);
  for (const std::vector<double>& part : parts)
    for (size_t i = 0; i < size; ++i) sum[i] += part[i];
  return sum;
}

std::vector<double> Replay::removals() const {
  return sum_over_tokens(kept_.size(), [&](int t, std::span<double> sum) {
    const double now = state_[t].error;
    std::vector<uint8_t> active(grouped() ? kept_.size() : 0);
    if (grouped()) mark_active(t, active);
    const auto consider = [&](int e) {
      const auto expert = static_cast<size_t>(e);
      if (!kept_[expert]) return;
      if (grouped() && active[expert]) {
        sum[expert] += weight(t) * (rerouted(t, e, -1) - now);
        return;
      }
      Change change = removal(t, rank_[at(t, kept_.size()) + expert]);
      if (over_all()) change.divisor = -static_cast<double>(record_.gains(t)[e]);
      sum[expert] += weight(t) * (after(t, change) - now);
    };
    if (grouped() || over_all())
      for (int e = 0; e < record_.experts; ++e) consider(e);
    else
      for (const int rank : chosen(t)) consider(record_.ranking(t)[static_cast<size_t>(rank)]);
  });
}

std::vector<double> Replay::additions() const {
  return sum_over_tokens(kept_.size(), [&](int t, std::span<double> sum) {
    const double now = state_[t].error;
    std::vector<uint8_t> active(grouped() ? kept_.size() : 0);
    if (grouped()) mark_active(t, active);
    for (int e = 0; e < record_.experts; ++e) {
      const auto expert = static_cast<size_t>(e);
      const int rank = rank_[at(t, kept_.size()) + expert];
      if (kept_[expert] || (rank == record_.ranks && !over_all())) continue;
      if (grouped() && active[expert]) {
        sum[expert] += weight(t) * (rerouted(t, -1, e) - now);
        continue;
      }
      Change change = rank < record_.ranks && !grouped() ? addition(t, rank) : Change{};
      if (over_all()) change.divisor = record_.gains(t)[e];
      sum[expert] += weight(t) * (after(t, change) - now);
    }
  });
}

// Within groups: marks whoever may change more of a token than its divisor when it goes or comes. A kept one that is
// not chosen and not among the best, or the two best, that its group is worth; one that is out and would be neither.
void Replay::mark_active(int t, std::span<uint8_t> active) const {
  const size_t size = kept_.size() / static_cast<size_t>(record_.rule.groups);
  const int leaders = record_.rule.by_top_two ? 2 : 1, last = count_of_[t] < k_ ? record_.ranks : chosen(t).back();
  std::vector<int> better(static_cast<size_t>(record_.rule.groups), 0);  // kept ones seen of each group
  for (int r = 0; r < record_.ranks; ++r) {
    const auto e = static_cast<size_t>(record_.ranking(t)[static_cast<size_t>(r)]);
    active[e] = r <= last || better[e / size] < leaders;
    better[e / size] += kept_[e];
  }
}

// Where what e's going and i's coming do together is not worked out from both.
std::vector<double> Replay::single_swaps(bool within_groups) const {
  const size_t n = kept_.size(), size = within_groups ? n / static_cast<size_t>(record_.rule.groups) : n;
  return sum_over_tokens(n * n, [&](int t, std::span<double> part) {
    std::vector<uint8_t> active(grouped() ? n : 0);
    if (grouped()) mark_active(t, active);
    const auto error = [&](size_t e, size_t i) {
      if (grouped() && (active[e] || active[i])) return rerouted(t, static_cast<int>(e), static_cast<int>(i));
      const int out = rank_[at(t, n) + e], in = rank_[at(t, n) + i];
      Change change;
      if (!grouped()) change = in < record_.ranks ? exchange(t, out, in) : removal(t, out);
      if (over_all()) change.divisor = static_cast<double>(record_.gains(t)[i]) - record_.gains(t)[e];
      return after(t, change);
    };
    for (size_t e = 0; e < n; ++e)
      for (size_t i = e / size * size; i < (e / size + 1) * size; ++i)
        if (kept_[e] && !kept_[i]) part[e * n + i] += weight(t) * (error(e, i) - state_[t].error);
  });
}

// Where the rule divides by the chosen or by nothing, what e's going and i's coming do together differs from the sum of
// both only for a token that chooses e and ranks i before its next survivor (docs/compress.md, C12).
std::vector<double> Replay::swaps(bool within_groups) const {
  if (grouped() || over_all()) return single_swaps(within_groups);
  const size_t n = kept_.size();
  std::vector<double> sum(n * n, 0.0);
  const std::vector<double> removed = removals(), added = additions();
  const std::vector<double> cross = sum_over_tokens(n * n, [&](int t, std::span<double> part) {
    const State& state = state_[t];
    const int next = state.next < 0 ? record_.ranks : state.next;
    for (int in = 0; in < next; ++in) {
      const int i = record_.ranking(t)[static_cast<size_t>(in)];
      if (kept_[i]) continue;
      const double both_in = after(t, addition(t, in)) - state.error;
      for (const int out : chosen(t)) {
        const double apart = after(t, removal(t, out)) - state.error + both_in;
        const double together = after(t, exchange(t, out, in)) - state.error;
        part[at(record_.ranking(t)[static_cast<size_t>(out)], n) + static_cast<size_t>(i)] +=
            weight(t) * (together - apart);
      }
    }
  });
  for (size_t e = 0; e < n; ++e)
    for (size_t i = 0; i < n; ++i)
      if (kept_[e] && !kept_[i]) sum[e * n + i] = removed[e] + added[i] + cross[e * n + i];
  return sum;
}

double Replay::batched_norms() const {
  double total = 0;
  for (size_t s = 0; s + 1 < record_.batch.size(); ++s) {
    double sum = 0;
    for (int t = record_.batch[s]; t < record_.batch[s + 1]; ++t) sum += weight(t) * state_[t].error;
    total += std::sqrt(sum);
  }
  return total;
}

}  // namespace choir::compress
