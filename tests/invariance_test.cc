// The promise of model/forward.h: bit for bit, a row's logits depend on the ids of its own sequence up to it alone.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "kernels/isa.h"
#include "model/forward.h"
#include "tests/files.h"
#include "tests/random_model.h"

namespace choir {
namespace {

using Logits = std::vector<float>;

// Grouped heads, odd sizes, experts whose number and width differ from layer to layer, one layer that skips.
model::Config uneven_config(int window) {
  model::Config config = tests::small_config({{4, 2, 24, {}, {}}, {7, 3, 41, {}, {}}, {3, 2, 17, 0.5f, {}}});
  config.attention = {.heads = 6, .kv_heads = 2, .head_width = 10, .window = window};
  config.width = 44;
  config.vocab = 131;
  return config;
}

// Logits of all rows of one sequence that is fed in pieces of `piece` tokens through a cache.
Logits in_pieces(const model::Model& model, std::span<const int32_t> ids, int piece, base::Threads& threads) {
  const int count = static_cast<int>(ids.size()), vocab = model.config().vocab;
  const model::KvCache cache(model.config(), 1, count);
  Logits logits(static_cast<size_t>(count) * static_cast<size_t>(vocab));
  model::Scratch scratch;
  for (int first = 0; first < count; first += piece) {
    const int taken = std::min(piece, count - first);
    const kernels::Sequence place{0, taken, first, 0};
    const tensor::Matrix<float> rows(logits.data() + static_cast<ptrdiff_t>(first) * vocab, taken, vocab);
    model::forward(model, {ids.subspan(static_cast<size_t>(first), static_cast<size_t>(taken)), {&place, 1}},
                   {.cache = &cache}, scratch, rows, threads);
  }
  return logits;
}

// Sequences of different ages and lengths in one batch with one cache: the next `step` tokens of each are read
// together, in reverse order of their places, until all have been read.
std::vector<Logits> side_by_side(const model::Model& model, const std::vector<std::vector<int32_t>>& texts, int step,
                                 base::Threads& threads) {
  const int count = static_cast<int>(texts.size()), vocab = model.config().vocab, capacity = 64;
  const model::KvCache cache(model.config(), count, capacity);
  std::vector<Logits> results(texts.size());
  std::vector<int> done(texts.size(), 0);
  model::Scratch scratch;
  for (bool more = true; more;) {
    std::vector<int32_t> ids;
    std::vector<kernels::Sequence> places;
    std::vector<int> owners;
    for (int s = count - 1; s >= 0; --s) {
      const int taken = std::min(step + s, static_cast<int>(texts[s].size()) - done[s]);
      if (taken == 0) continue;
      places.push_back({static_cast<int>(ids.size()), taken, done[s], cache.kv_row(s)});
      owners.push_back(s);
      ids.insert(ids.end(), texts[s].begin() + done[s], texts[s].begin() + done[s] + taken);
      done[s] += taken;
    }
    more = !ids.empty();
    if (!more) break;
    Logits logits(ids.size() * static_cast<size_t>(vocab));
    model::forward(model, {ids, places}, {.cache = &cache}, scratch,
                   {logits.data(), static_cast<int>(ids.size()), vocab}, threads);
    for (size_t p = 0; p < places.size(); ++p) {
      const auto first = logits.begin() + static_cast<ptrdiff_t>(places[p].row) * vocab;
      Logits& result = results[owners[p]];
      result.insert(result.end(), first, first + static_cast<ptrdiff_t>(places[p].count) * vocab);
    }
  }
  return results;
}

TEST_CASE("how a prompt is cut into calls does not change a bit, with any number of threads") {
  for (const int window : {0, 6, 64})
    for (const int thread_count : {1, 2, 3}) {
      CAPTURE(window);
      CAPTURE(thread_count);
      const tests::RandomModel random(uneven_config(window), 5);
      const auto ids = tests::random_ids(50, 131, 6);
      base::Threads threads(thread_count);
      const Logits whole = tests::all_logits(random.model(), ids, 1);
      for (const int piece : {1, 7, 33, 50}) CHECK(in_pieces(random.model(), ids, piece, threads) == whole);
      CHECK(tests::all_logits(random.model(), ids, 1, thread_count) == whole);
    }
}

TEST_CASE("what else is in the batch does not change a bit") {
  for (const int window : {0, 6}) {
    CAPTURE(window);
    const tests::RandomModel random(uneven_config(window), 7);
    std::vector<std::vector<int32_t>> texts;
    for (const int length : {50, 3, 17, 1, 40}) texts.push_back(tests::random_ids(length, 131, 8 + texts.size()));
    base::Threads threads(2);
    for (const int step : {1, 9}) {
      const std::vector<Logits> together = side_by_side(random.model(), texts, step, threads);
      for (size_t s = 0; s < texts.size(); ++s) CHECK(together[s] == tests::all_logits(random.model(), texts[s], 1));
    }
  }
}

// Sizes in whole blocks, and some that are not: those weights keep their floats.
model::Config config_in_blocks() {
  model::Config config = tests::small_config({{4, 2, 64, {}, {}}, {6, 3, 96, {}, {}}, {3, 2, 40, {}, {}}});
  config.attention = {.heads = 4, .kv_heads = 2, .head_width = 16, .window = 0};
  config.width = 96;
  config.vocab = 131;
  config.layers[1].shared_width = 32;
  return config;
}

TEST_CASE("packed weights: bits depend on nothing else in the call, and they are near those of rows") {
  const tests::RandomModel random(config_in_blocks(), 21);
  std::vector<std::vector<int32_t>> texts;
  for (const int length : {50, 3, 17}) texts.push_back(tests::random_ids(length, 131, 22 + texts.size()));
  for (const auto type : {tensor::DType::kF32, tensor::DType::kBF16, tensor::DType::kQ8_0, tensor::DType::kQ4_0}) {
    CAPTURE(tensor::name_of(type));
    base::Threads threads(3);
    const tests::TypedModel typed(random.model(), type);
    const model::Model packed = typed.model().packed(threads);
    const Logits whole = tests::all_logits(packed, texts[0], 1), rows = tests::all_logits(typed.model(), texts[0], 1);
    for (const int piece : {1, 7, 33}) CHECK(in_pieces(packed, texts[0], piece, threads) == whole);
    for (const int count : {2, 3}) CHECK(tests::all_logits(packed, texts[0], 1, count) == whole);
    const std::vector<Logits> together = side_by_side(packed, texts, 9, threads);
    for (size_t s = 0; s < texts.size(); ++s) CHECK(together[s] == tests::all_logits(packed, texts[s], 1));
    CHECK(tests::all_logits(typed.model().packed_in_passing(), texts[0], 1) == whole);
    CHECK(tests::all_logits(typed.model().packed_in_passing().packed(threads), texts[0], 1) == whole);
    double most = 0, error = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      most = std::max(most, std::abs(static_cast<double>(rows[i])));
      error += std::abs(static_cast<double>(whole[i]) - static_cast<double>(rows[i]));
    }
    const double bound = type == tensor::DType::kF32 ? 1e-5 : 0.05;  // of rounded activations: another expert may win
    CHECK(error / static_cast<double>(rows.size()) < bound * most);
    CHECK(whole != rows);
  }
}

TEST_CASE("packed weights go with the experts that stay, and what wants rows is refused") {
  const tests::RandomModel random(config_in_blocks(), 23);
  const tests::TypedModel typed(random.model(), tensor::DType::kQ8_0);
  base::Threads threads(2);
  model::Config fewer = typed.model().config();
  fewer.layers[1].experts = 4;
  const std::vector<std::vector<int>> keep{{0, 1, 2, 3}, {0, 2, 3, 5}, {0, 1, 2}};
  const auto ids = tests::random_ids(20, 131, 24);
  const model::Model packed = typed.model().packed(threads);
  CHECK(tests::all_logits(packed.with_layers(fewer, keep), ids, 1) ==
        tests::all_logits(typed.model().with_layers(fewer, keep).packed(threads), ids, 1));
  CHECK(tests::all_logits(packed.packed(threads), ids, 1) == tests::all_logits(packed, ids, 1));
  CHECK(model::bytes_per_token(packed) == model::bytes_per_token(typed.model()));
  tests::TemporaryDirectory directory;
  CHECK_THROWS_AS(packed.save(directory.path(), {}), base::Error);
}

TEST_CASE("a large batch without a cache gives each sequence what it gets alone") {
  const tests::RandomModel random(uneven_config(0), 9);
  const int sequences = 12, length = 31, row = 31 * 131;
  const auto ids = tests::random_ids(sequences * length, 131, 10);
  const Logits together = tests::all_logits(random.model(), ids, sequences, 3);
  for (int s = 0; s < sequences; ++s) {
    const auto mine = std::span(ids).subspan(static_cast<size_t>(s * length), static_cast<size_t>(length));
    const Logits alone = tests::all_logits(random.model(), mine, 1);
    CHECK(std::equal(alone.begin(), alone.end(), together.begin() + s * row));
  }
}

// Wide enough for every blocking of the kernels to come into play.
TEST_CASE("widths beyond the kernels' tiles and blocks change nothing about it") {
  model::Config config = tests::small_config({{5, 2, 700, {}, {}}});
  config.attention = {.heads = 8, .kv_heads = 4, .head_width = 66, .window = 0};
  config.width = 516;
  config.vocab = 1031;
  const tests::RandomModel random(config, 15);
  const auto ids = tests::random_ids(70, config.vocab, 16);
  base::Threads threads(3);
  for (const kernels::Isa isa : {kernels::Isa::kPlain, kernels::Isa::kAvx2, kernels::Isa::kAvx512}) {
    const kernels::IsaLimit limit(isa);
    const Logits whole = tests::all_logits(random.model(), ids, 1);
    for (const int piece : {1, 5, 64}) CHECK(in_pieces(random.model(), ids, piece, threads) == whole);
  }
}

TEST_CASE("later ids never reach back") {
  const tests::RandomModel random(uneven_config(0), 11);
  auto ids = tests::random_ids(30, 131, 12);
  const Logits before = tests::all_logits(random.model(), ids, 1);
  ids[20] = (ids[20] + 1) % 131;
  const Logits after = tests::all_logits(random.model(), ids, 1);
  const auto changed = std::ranges::mismatch(before, after).in1 - before.begin();
  CHECK(changed >= 20 * 131);
  CHECK(changed < 21 * 131);
}

TEST_CASE("the last row alone is the last row of all") {
  const tests::RandomModel random(uneven_config(6), 13);
  const auto ids = tests::random_ids(30, 131, 14);
  const Logits all = tests::all_logits(random.model(), ids, 1);
  base::Threads threads(2);
  const kernels::Sequence place{0, 30, 0, 0};
  Logits last(131);
  model::Scratch scratch;
  model::forward(random.model(), {ids, {&place, 1}}, {.rows = model::Rows::kLast}, scratch, {last.data(), 1, 131},
                 threads);
  CHECK(std::equal(last.begin(), last.end(), all.end() - 131));
}

}  // namespace
}  // namespace choir
