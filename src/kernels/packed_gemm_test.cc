#include "kernels/packed_gemm.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "kernels/reference/compare.h"
#include "tensor/buffer.h"

namespace choir::kernels {
namespace {

using tensor::Buffer;
using tensor::DType;

const DType kBlocked[] = {DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K, DType::kMXFP4};
const DType kNumbers[] = {DType::kF32, DType::kBF16, DType::kF16};

Buffer<float> random_rows(int rows, int cols, uint64_t seed) {
  Buffer<float> x(static_cast<size_t>(rows) * static_cast<size_t>(cols));
  base::Rng rng(seed);
  for (float& v : x.span()) v = rng.normal();
  return x;
}

// A weight of any type with its bytes: blocks of random codes, every kind of scale that stays small; or random numbers.
struct Stored {
  std::vector<std::byte> bytes;
  Weight weight;

  Stored(DType type, int rows, int cols, uint64_t seed)
      : bytes(static_cast<size_t>(rows) * tensor::bytes_of(type, static_cast<size_t>(cols))),
        weight(bytes.data(), type, rows, cols) {
    base::Rng rng(seed);
    if (!tensor::is_blocked(type)) {
      tensor::narrow(random_rows(rows, cols, seed).span(), type, bytes);
      return;
    }
    for (std::byte& b : bytes) b = static_cast<std::byte>(rng.below(256));
    const size_t step = tensor::block_of(type).bytes;
    for (size_t at = 0; at < bytes.size(); at += step) {
      const auto put_half = [&](size_t offset) {
        const tensor::F16 half = tensor::F16::from(0.01f * rng.normal());
        std::memcpy(&bytes[at + offset], &half, sizeof half);
      };
      if (type == DType::kMXFP4) {
        bytes[at] = static_cast<std::byte>(118 + rng.below(4));
        continue;
      }
      put_half(type == DType::kQ6_K ? 208 : 0);
      if (type == DType::kQ4_K) put_half(2);
    }
  }

  std::vector<float> numbers() const {
    std::vector<float> result(weight.size());
    tensor::widen(weight, result);
    return result;
  }
};

struct Packed {
  Buffer<std::byte> bytes;
  Weight weight;

  explicit Packed(const Stored& from) : bytes(packed_bytes({&from.weight, 1})), weight(from.weight) {
    Threads threads(2);
    pack({&weight, 1}, bytes.span(), threads);
  }
};

// y of one call, and the quantised rows that it saw.
struct Answer {
  Buffer<RowBlock> blocks;
  Buffer<uint32_t> pairs;
  Buffer<float> y;

  Answer(const Groups& groups, Matrix<const float> x, std::span<const Weight> w, int wide, int threads)
      : blocks(blocks_of(groups, x.cols)),
        pairs(static_cast<size_t>(x.rows) * pairs_of(x.cols)),
        y(static_cast<size_t>(groups.offset.back() * wide)) {
    Threads pool(threads);
    quantize(groups, x, blocks.span(), pool);
    round_to_pairs(x, pairs.span(), pool);
    const Product product{w, y.matrix(groups.offset.back(), wide)};
    packed_forward(groups, input(x), {&product, 1}, pool);
  }

  PackedInput input(Matrix<const float> x) const { return {x, blocks.span(), pairs.span()}; }
};

struct One {
  std::vector<int32_t> offset;
  explicit One(int rows) : offset{0, rows} {}
  Groups groups() const { return {offset, {}}; }
};

// The rule of packed_gemm.h for one row, in double.
std::vector<double> rounded_row(const float* x, int cols) {
  std::vector<double> result;
  for (int first = 0; first < cols; first += 32) {
    double most = 0;
    for (int k = 0; k < 32; ++k) most = std::max(most, std::abs(static_cast<double>(x[first + k])));
    const double scale = most / 127;
    for (int k = 0; k < 32; ++k) result.push_back(scale > 0 ? scale * std::nearbyint(x[first + k] / scale) : 0);
  }
  return result;
}

TEST_CASE("quantised rows: scale, codes and sums, at ten scales, in every version") {
  const int n = 21, cols = 96;
  reference::for_each_isa([&](Isa isa) {
    CAPTURE(name_of(isa));
    for (const double size : reference::scales(1e-20, 1e20)) {
      CAPTURE(size);
      const auto x = random_rows(n, cols, 3);
      for (float& v : x.span()) v *= static_cast<float>(size);
      std::fill(x.data() + 32, x.data() + 64, 0.0f);  // a block of zeros
      Buffer<RowBlock> blocks(blocks_of(One(n).groups(), cols));
      Threads threads(2);
      quantize(One(n).groups(), x.matrix(n, cols), blocks.span(), threads);
      for (int r = 0; r < n; ++r)
        for (int b = 0; b < cols / 32; ++b) {
          // Tiles of eight rows, the last of five.
          const int tile = r / 8 * 8, rows = std::min(8, n - tile);
          const RowBlock& block = blocks[static_cast<size_t>(tile * 3 + b * rows + r - tile)];
          const float* from = &x[static_cast<size_t>(r * cols + b * 32)];
          int low = 0, high = 0, most = 0;
          for (int k = 0; k < 32; ++k) {
            const double got = static_cast<double>(block.scale) * block.q[k];
            CHECK(std::abs(got - static_cast<double>(from[k])) <= 0.50001 * static_cast<double>(block.scale));
            (k < 16 ? low : high) += block.q[k];
            most = std::max(most, std::abs(static_cast<int>(block.q[k])));
          }
          CHECK(most == (r == 0 && b == 1 ? 0 : 127));
          CHECK(block.offset == -128 * (low + high));
          CHECK(block.low == -32 * low);
          CHECK(block.high == -32 * high);
          CHECK(block.total == block.scale * static_cast<float>(low + high));
        }
    }
  });
}

TEST_CASE("quantised rows: tiny numbers count as zero, and what is not finite makes NaNs") {
  const std::vector<float> x(32, 0x1p-120f);
  std::vector<RowBlock> blocks(1);
  Threads threads(1);
  quantize(One(1).groups(), {x.data(), 1, 32}, blocks, threads);
  for (const int8_t q : blocks[0].q) CHECK(q == 0);
  for (const DType type : kBlocked) {
    const int cols = static_cast<int>(tensor::block_of(type).numbers);
    const Packed packed(Stored(type, 5, cols, 4));
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      std::vector<float> row(static_cast<size_t>(cols), 1.0f);
      row.back() = bad;
      const Answer answer(One(1).groups(), {row.data(), 1, cols}, {&packed.weight, 1}, 5, 1);
      for (const float y : answer.y.span()) CHECK(std::isnan(y));
    }
  }
}

TEST_CASE("packed products of blocks equal plain loops over the rounded rows, in every version") {
  for (const DType type : kBlocked)
    reference::for_each_isa([&](Isa isa) {
      CAPTURE(tensor::name_of(type));
      CAPTURE(name_of(isa));
      const int cols = tensor::block_of(type).numbers == 32 ? 288 : 768;
      for (const int rows : {1, 15, 16, 37}) {
        const Stored stored(type, rows, cols, 5);
        const Packed packed(stored);
        const std::vector<float> w = stored.numbers();
        for (const int n : {1, 2, 3, 4, 5, 6, 7, 8, 9, 70}) {
          const auto x = random_rows(n, cols, 6);
          const Answer answer(One(n).groups(), x.matrix(n, cols), {&packed.weight, 1}, rows, 2);
          double worst = 0;
          for (int r = 0; r < n; ++r) {
            const std::vector<double> from = rounded_row(&x[static_cast<size_t>(r * cols)], cols);
            for (int c = 0; c < rows; ++c) {
              double sum = 0, size = 0;
              for (int k = 0; k < cols; ++k) {
                const double product = static_cast<double>(w[static_cast<size_t>(c * cols + k)]) * from[k];
                sum += product;
                size += std::abs(product);
              }
              worst = std::max(worst, std::abs(answer.y[static_cast<size_t>(r * rows + c)] - sum) / size);
            }
          }
          CHECK(worst < 1e-6);
        }
      }
    });
}

TEST_CASE("packed MXFP4: every code under scales at both ends of their range") {
  std::vector<std::byte> bytes;
  for (const int e : {0, 1, 2, 127, 200})
    for (int j = -1; j < 16; ++j) bytes.push_back(static_cast<std::byte>(j < 0 ? e : j * 16 + (15 - j)));
  const int rows = 5;
  Weight weight(bytes.data(), DType::kMXFP4, rows, 32);
  std::vector<float> numbers(weight.size()), x(32 * 32);
  tensor::widen(weight, numbers);
  for (int i = 0; i < 32; ++i) x[static_cast<size_t>(i * 33)] = 127;  // one number of each row: it is exact
  Threads threads(1);
  Buffer<std::byte> panel(packed_bytes({&weight, 1}));
  pack({&weight, 1}, panel.span(), threads);
  reference::for_each_isa([&](Isa isa) {
    CAPTURE(name_of(isa));
    const Answer answer(One(32).groups(), {x.data(), 32, 32}, {&weight, 1}, rows, 1);
    for (int i = 0; i < 32; ++i)
      for (int r = 0; r < rows; ++r)
        CHECK(answer.y[static_cast<size_t>(i * rows + r)] == 127 * numbers[static_cast<size_t>(r * 32 + i)]);
  });
}

TEST_CASE("packed products of blocks: the same bits in every version that fuses multiply-adds") {
  const int n = 11, rows = 50, cols = 512;
  for (const DType type : kBlocked) {
    CAPTURE(tensor::name_of(type));
    const Packed packed(Stored(type, rows, cols, 7));
    const auto x = random_rows(n, cols, 8);
    const auto run = [&] { return Answer(One(n).groups(), x.matrix(n, cols), {&packed.weight, 1}, rows, 2); };
    const Answer best = run();
    reference::for_each_isa([&](Isa isa) {
      CAPTURE(name_of(isa));
      if (isa == Isa::kPlain) return;
      CHECK(std::memcmp(run().y.data(), best.y.data(), best.y.size() * sizeof(float)) == 0);
    });
  }
}

// The sum over k in order, one multiply-add at a time, fused or not as the compiler made the tile: what every version
// but that for pairs computes, to the bit.
float chained(const float* x, const float* w, int cols, bool fused) {
  float sum = 0;
  for (int k = 0; k < cols; ++k) {
    const float product = x[k] * w[k];
    sum = fused ? std::fma(w[k], x[k], sum) : sum + product;
  }
  return sum;
}

TEST_CASE("packed products of numbers: the sum in order, to the bit, or with rows rounded to BF16") {
  Threads threads(2);
  reference::for_each_isa([&](Isa isa) {
    CAPTURE(name_of(isa));
    for (const DType type : kNumbers)
      for (const int cols : {16, 64, 91, 290})
        for (const int rows : {1, 16, 37})
          for (const int n : {1, 2, 3, 5, 8, 13, 70}) {
            const Stored stored(type, rows, cols, 9);
            const Packed packed(stored);
            const std::vector<float> w = stored.numbers();
            auto x = random_rows(n, cols, 10);
            const Answer answer(One(n).groups(), x.matrix(n, cols), {&packed.weight, 1}, rows, 2);
            double worst = 0;
            bool fused = true, apart = true;  // every sum is made in one way
            if (wants_pairs(type))
              for (float& v : x.span()) v = static_cast<float>(tensor::BF16::from(v));
            for (int r = 0; r < n; ++r)
              for (int c = 0; c < rows; ++c) {
                const float *from = &x[static_cast<size_t>(r * cols)], *column = &w[static_cast<size_t>(c * cols)];
                const float got = answer.y[static_cast<size_t>(r * rows + c)];
                double sum = 0, size = 0;
                for (int k = 0; k < cols; ++k) {
                  const double product = static_cast<double>(from[k]) * static_cast<double>(column[k]);
                  sum += product;
                  size += std::abs(product);
                }
                worst = std::max(worst, std::abs(static_cast<double>(got) - sum) / size);
                fused = fused && got == chained(from, column, cols, true);
                apart = apart && got == chained(from, column, cols, false);
              }
            CHECK(worst < 1e-6);
            CHECK((fused || apart || wants_pairs(type)));
          }
  });
}

TEST_CASE("rows rounded to BF16: as numbers are narrowed, in pairs, the last one with a zero") {
  const int n = 5, cols = 37;
  auto x = random_rows(n, cols, 15);
  x[3] = std::numeric_limits<float>::infinity();
  x[4] = std::numeric_limits<float>::quiet_NaN();
  x[5] = 0x1.01p0f;  // halfway: to the even one
  Threads threads(2);
  reference::for_each_isa([&](Isa isa) {
    CAPTURE(name_of(isa));
    std::vector<uint32_t> pairs(n * pairs_of(cols), 77);
    round_to_pairs(x.matrix(n, cols), pairs, threads);
    for (int r = 0; r < n; ++r)
      for (int c = 0; c < cols + 1; ++c) {
        const uint32_t word = pairs[static_cast<size_t>(r) * pairs_of(cols) + c / 2],
                       half = c % 2 == 0 ? word & 0xffff : word >> 16;
        const tensor::BF16 expected = tensor::BF16::from(c < cols ? x[static_cast<size_t>(r * cols + c)] : 0);
        uint16_t bits;
        std::memcpy(&bits, &expected, sizeof bits);
        if (r == 0 && c == 4)
          CHECK((half & 0x7fff) > 0x7f80);
        else
          CHECK(half == bits);
      }
  });
}

// Experts of every type and of unequal size, one without rows, rows gathered. Every position must have the bits of a
// call of its own, for any number of threads.
TEST_CASE("packed products: a row's bits depend on nothing but the row and the weight") {
  const int n = 40, cols = 2304, wide = 70;
  const DType types[] = {DType::kQ8_0, DType::kQ4_0, DType::kBF16, DType::kQ4_K, DType::kQ6_K, DType::kF32};
  const std::vector<int32_t> offset{0, 9, 10, 36, 36, 57, 60};
  const int widths[] = {33, 70, 16, 20, 47, 9}, depths[] = {2304, 480, 333, 2304, 1280, 512};
  std::vector<Stored> stored;
  std::vector<Packed> packed;
  std::vector<Weight> weights;
  for (size_t e = 0; e < std::size(types); ++e) {
    stored.emplace_back(types[e], widths[e], depths[e], 20 + e);
    packed.emplace_back(stored.back());
    weights.push_back(packed.back().weight);
  }
  base::Rng rng(11);
  std::vector<int32_t> row;
  for (int i = 0; i < offset.back(); ++i) row.push_back(static_cast<int32_t>(rng.below(n)));
  const auto x = random_rows(n, cols, 12);
  reference::for_each_isa([&](Isa isa) {
    CAPTURE(name_of(isa));
    const Answer all({offset, row}, x.matrix(n, cols), weights, wide, 1);
    for (const int threads : {2, 3}) {
      const Answer again({offset, row}, x.matrix(n, cols), weights, wide, threads);
      CHECK(std::memcmp(all.y.data(), again.y.data(), all.y.size() * sizeof(float)) == 0);
    }
    Buffer<float> more(all.y.size());
    std::vector<Weight> lying = weights;  // panels made in passing
    for (size_t e = 0; e < lying.size(); ++e) lying[e] = to_be_packed(stored[e].weight);
    const Answer passing({offset, row}, x.matrix(n, cols), lying, wide, 2);
    CHECK(std::memcmp(all.y.data(), passing.y.data(), all.y.size() * sizeof(float)) == 0);
    // Two products in one launch.
    Threads pool(2);
    const Product both[] = {{weights, more.matrix(60, wide)}, {weights, all.y.matrix(60, wide)}};
    packed_forward({offset, row}, all.input(x.matrix(n, cols)), both, pool);
    CHECK(std::memcmp(all.y.data(), more.data(), all.y.size() * sizeof(float)) == 0);
    for (size_t e = 0; e < std::size(types); ++e)
      for (int i = offset[e]; i < offset[e + 1]; ++i) {
        const Matrix<const float> alone = x.matrix(n, cols).slice_rows(row[static_cast<size_t>(i)], 1);
        const Answer single(One(1).groups(), alone, {&weights[e], 1}, wide, 1);
        CHECK(std::memcmp(single.y.data(), &all.y[static_cast<size_t>(i * wide)], widths[e] * sizeof(float)) == 0);
      }
  });
}

TEST_CASE("packed weights: several in one launch are those packed one by one, each at a multiple of 64") {
  std::vector<Stored> stored;
  for (const DType type : kBlocked) stored.emplace_back(type, 37, 256, 30);
  for (const DType type : kNumbers) stored.emplace_back(type, 9, 50, 31);
  stored.emplace_back(DType::kQ8_0, 600, 8192, 32);  // of more than one piece
  std::vector<Weight> weights;
  for (const Stored& s : stored) weights.push_back(s.weight);
  Buffer<std::byte> bytes(packed_bytes(weights));
  Threads threads(3);
  pack(weights, bytes.span(), threads);
  for (size_t i = 0; i < weights.size(); ++i) {
    const Packed one(stored[i]);
    CHECK(weights[i].packed());
    CHECK(reinterpret_cast<uintptr_t>(weights[i].data) % 64 == 0);
    const size_t size = packed_bytes(weights[i].type, weights[i].rows, weights[i].cols);
    CHECK(std::memcmp(weights[i].data, one.weight.data, size) == 0);
  }
}

TEST_CASE("packed weights: unpacked they are the bytes they were") {
  for (const std::span<const DType> types : std::initializer_list<std::span<const DType>>{kBlocked, kNumbers})
    for (const DType type : types)
      for (const int rows : {1, 16, 37})
        for (const int cols : {256, 768, 91}) {
          if (static_cast<size_t>(cols) % tensor::block_of(type).numbers != 0) continue;
          CAPTURE(tensor::name_of(type));
          const Stored stored(type, rows, cols, 40);
          const Packed packed(stored);
          std::vector<std::byte> back(stored.bytes.size());
          unpack(packed.weight, back.data());
          CHECK(back == stored.bytes);
        }
  const Stored stored(DType::kF32, 3, 5, 41);
  std::vector<std::byte> back(stored.bytes.size());
  CHECK_THROWS_AS(unpack(stored.weight, back.data()), base::Error);
}

// Files hold this order. Where one of these numbers changes, kPanelVersion must.
TEST_CASE("packed weights: the order of their bytes is that of version 1") {
  CHECK(kPanelVersion == 1);
  const auto digest = [](DType type) {  // FNV-1a
    std::vector<std::byte> bytes(21 * tensor::bytes_of(type, 512));
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * i / 7 + i);
    Weight weight(bytes.data(), type, 21, 512);
    Buffer<std::byte> panels(packed_bytes({&weight, 1}));
    Threads threads(1);
    pack({&weight, 1}, panels.span(), threads);
    uint64_t hash = 0xcbf29ce484222325;
    for (size_t i = 0; i < packed_bytes(type, 21, 512); ++i)
      hash = (hash ^ std::to_integer<uint64_t>(panels[i])) * 0x100000001b3;
    return hash;
  };
  CHECK(digest(DType::kQ8_0) == 0x3d76d2c42c897af5);
  CHECK(digest(DType::kQ4_0) == 0x7e0476554d940cf5);
  CHECK(digest(DType::kQ4_K) == 0x35d21b6aae57fb19);
  CHECK(digest(DType::kQ6_K) == 0xcdccf06c5bb8cec7);
  CHECK(digest(DType::kMXFP4) == 0x64e47e5eb462181b);
  CHECK(digest(DType::kBF16) == 0xcad9fd3fec543e89);
  CHECK(digest(DType::kF16) == digest(DType::kBF16));
  CHECK(digest(DType::kF32) == 0xc8493932fcc14939);
}

TEST_CASE("packed weights are as large as the file's, up to a panel, and what cannot be is refused") {
  CHECK(packed_bytes(DType::kQ8_0, 32, 64) == tensor::bytes_of(DType::kQ8_0, 32 * 64));
  CHECK(packed_bytes(DType::kQ6_K, 17, 256) == tensor::bytes_of(DType::kQ6_K, 32 * 256));
  CHECK(packed_bytes(DType::kBF16, 9, 17) == 16 * 18 * 2);
  CHECK_FALSE(can_pack(DType::kI8));
  CHECK_FALSE(can_pack(DType::kF8E4M3));
  CHECK_THROWS_AS(packed_bytes(DType::kI8, 1, 1), base::Error);
  const Stored stored(DType::kQ8_0, 4, 32, 1);
  const Packed packed(stored);
  Threads threads(1);
  std::vector<std::byte> small(10);
  Weight weight = stored.weight;
  CHECK_THROWS_AS(pack({&weight, 1}, small, threads), base::Error);
  CHECK_THROWS_AS(to_be_packed(packed.weight), base::Error);
  Weight again = packed.weight;
  std::vector<std::byte> room(packed.bytes.size());
  CHECK_THROWS_AS(pack({&again, 1}, room, threads), base::Error);
  Buffer<float> x(32), y(4);
  const Product product{{&packed.weight, 1}, y.matrix(1, 4)}, lying{{&stored.weight, 1}, y.matrix(1, 4)};
  CHECK_THROWS_AS(packed_forward(One(1).groups(), {x.matrix(1, 32)}, {&product, 1}, threads), base::Error);
  CHECK_THROWS_AS(packed_forward(One(1).groups(), {x.matrix(1, 32)}, {&lying, 1}, threads), base::Error);
  CHECK_THROWS_AS(grouped_forward(One(1).groups(), x.matrix(1, 32), {&packed.weight, 1}, y.matrix(1, 4), threads),
                  base::Error);
  CHECK_THROWS_AS(gemm_forward(x.matrix(1, 32), packed.weight, y.matrix(1, 4), threads), base::Error);
  CHECK_THROWS_AS(packed.weight.row(0), base::Error);
}

}  // namespace
}  // namespace choir::kernels
