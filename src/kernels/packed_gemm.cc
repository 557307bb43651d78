#include "kernels/packed_gemm.h"

#include <algorithm>
#include <array>
#include <string>

#include "base/error.h"
#include "kernels/byte_tile.h"
#include "kernels/number_tile.h"
#include "kernels/packed_formats.h"

namespace choir::kernels {
namespace {

constexpr size_t kPieceBytes = size_t{512} << 10;  // of weights: a piece reads them as one stream
constexpr int kRows = 64;  // rows that pass by a panel before the next panel: they stay in the second cache

struct Call {
  const Groups& groups;
  const PackedInput& input;
  std::span<const Product> products;
};

// Panels first .. first + count - 1 of an expert's weight in a product, for all its rows.
struct Piece {
  const Product* product;
  int expert, first, count;

  const Weight& weight() const { return product->w[static_cast<size_t>(expert)]; }
};

int panels_of(const Weight& w) { return (w.rows + kPanelOutputs - 1) / kPanelOutputs; }

ptrdiff_t panel_bytes(const Weight& w) { return static_cast<ptrdiff_t>(packed_bytes(w.type, kPanelOutputs, w.cols)); }

// Pieces only divide the work: no sum crosses from one into another. Small weights are cut finer, for all threads to
// have some.
class Pieces {
 public:
  Pieces(const Call& call, int threads) : call_(call) {
    size_t bytes = 0;
    each_weight([&](const Piece& all) {
      const Weight& w = all.weight();
      bytes += packed_bytes(w.type, w.rows, w.cols);
    });
    bytes_ = std::min(kPieceBytes, bytes / (4 * static_cast<size_t>(threads)));
    each_weight([&](const Piece& all) { count_ += pieces_of(all.weight()); });
  }

  int count() const { return count_; }

  Piece at(int index) const {
    Piece found{};
    each_weight([&](const Piece& all) {
      const int pieces = pieces_of(all.weight()), first = index * step(all.weight());
      if (0 <= index && index < pieces)
        found = {all.product, all.expert, first, std::min(step(all.weight()), all.count - first)};
      index -= pieces;
    });
    return found;
  }

 private:
  // Calls body(Piece of all panels) for each weight that meets rows.
  template <class Body>
  void each_weight(const Body& body) const {
    const auto offset = call_.groups.offset;
    for (const Product& product : call_.products)
      for (int e = 0; e < call_.groups.count(); ++e)
        if (offset[e + 1] > offset[e]) body(Piece{&product, e, 0, panels_of(product.w[e])});
  }
  int step(const Weight& w) const {
    return std::max(1, static_cast<int>(bytes_ / std::max<size_t>(1, static_cast<size_t>(panel_bytes(w)))));
  }
  int pieces_of(const Weight& w) const { return (panels_of(w) + step(w) - 1) / step(w); }

  const Call& call_;
  size_t bytes_;
  int count_ = 0;
};

// Positions begin .. end - 1, some tiles of an expert's.
struct Rows {
  int begin, end;
};

// Some panels that go by together, or of each of them the numbers begin .. end - 1 of every row, whole units.
struct Panels {
  const std::byte* data;
  ptrdiff_t bytes;  // from one to the next
  int first, count, begin, end;
};

void byte_tiles(const Call& call, const Rows& rows, const Piece& piece, const Panels& panels) {
  const Matrix<float>& y = piece.product->y;
  const int stride = call.input.x.cols / RowBlock::kNumbers;  // blocks of a row
  const int block = panels.begin / RowBlock::kNumbers, col = panels.first * kPanelOutputs;
  const auto& some_tile = *byte_tile_for(piece.weight().type);
  for (int i = rows.begin; i < rows.end; i += kTileRows) {
    const TileRows tile = tile_of(i, call.groups.offset[piece.expert], call.groups.offset[piece.expert + 1]);
    some_tile(ByteTile{.x = call.input.blocks.data() + static_cast<ptrdiff_t>(i) * stride + block * tile.rows,
                       .panel = panels.data,
                       .panel_bytes = panels.bytes,
                       .y = y[i] + col,
                       .y_stride = y.stride,
                       .rows = tile.rows,
                       .cols = std::min(panels.count * kPanelOutputs, piece.weight().rows - col),
                       .blocks = panels.end / RowBlock::kNumbers - block,
                       .more = block > 0});
  }
}

void number_tiles(const Call& call, const Rows& rows, const Piece& piece, const Panels& panels) {
  const PackedInput& input = call.input;
  const Matrix<float>& y = piece.product->y;
  const int col = panels.first * kPanelOutputs;
  const auto& some_tile = *number_tile_for(piece.weight().type);
  for (int i = rows.begin; i < rows.end; i += kTileRows) {
    std::array<const float*, kTileRows> x;
    std::array<const uint32_t*, kTileRows> pairs{};
    const int count = std::min(kTileRows, rows.end - i);
    for (int r = 0; r < count; ++r) {
      const int source = call.groups.source(i + r);
      x[r] = input.x[source] + panels.begin;
      if (!input.pairs.empty())
        pairs[r] = &input.pairs[static_cast<size_t>(source) * pairs_of(input.x.cols) + panels.begin / 2];
    }
    some_tile(NumberTile{.x = x.data(),
                         .pairs = pairs.data(),
                         .panel = panels.data,
                         .panel_bytes = panels.bytes,
                         .y = y[i] + col,
                         .y_stride = y.stride,
                         .rows = count,
                         .cols = std::min(panels.count * kPanelOutputs, piece.weight().rows - col),
                         .depth = panels.end - panels.begin,
                         .more = panels.begin > 0});
  }
}

using Tiles = void(const Call&, const Rows&, const Piece&, const Panels&);

// The panels first .. first + count - 1 of its weight go by, some at a time.
void packed_panels(const Call& call, const Rows& rows, const Piece& piece, Tiles* tiles) {
  const Weight& w = piece.weight();
  const ptrdiff_t bytes = panel_bytes(w);
  const int end = piece.first + piece.count;
  for (int panel = piece.first; panel < end; panel += kTilePanels)
    tiles(call, rows, piece,
          {static_cast<const std::byte*>(w.data) + panel * bytes, bytes, panel, std::min(kTilePanels, end - panel), 0,
           w.cols});
}

// The same of a weight in rows: a part of some panels is made, and all rows pass by.
void passing_panels(const Call& call, const Rows& rows, const Piece& piece, Tiles* tiles) {
  constexpr ptrdiff_t kMostBytes = 18 << 10;  // of a panel's part
  alignas(64) std::array<std::byte, kTilePanels * kMostBytes> made;
  const Weight& w = piece.weight();
  const bool blocks = wants_blocks(w.type);
  const int step = blocks ? 32 * RowBlock::kNumbers : 256, end = piece.first + piece.count;
  const auto bytes = static_cast<ptrdiff_t>(packed_bytes(w.type, kPanelOutputs, step));
  CHOIR_CHECK(bytes <= kMostBytes, std::string(tensor::name_of(w.type)));
  for (int panel = piece.first; panel < end; panel += kTilePanels)
    for (int k = 0; k < w.cols; k += step) {
      const Panels part{made.data(), bytes, panel, std::min(kTilePanels, end - panel), k, std::min(w.cols, k + step)};
      for (int p = 0; p < part.count; ++p) {
        std::byte* to = made.data() + p * bytes;
        if (blocks)
          pack_blocks(w, (panel + p) * kPanelOutputs, k / RowBlock::kNumbers, part.end / RowBlock::kNumbers, to);
        else
          pack_numbers(w, (panel + p) * kPanelOutputs, k, part.end, to);
      }
      tiles(call, rows, piece, part);
    }
}

void check(const Call& call) {
  const Groups& groups = call.groups;
  for (const auto& [weights, y] : call.products) {
    CHOIR_CHECK(groups.count() == static_cast<int>(weights.size()) && groups.offset.front() == 0 &&
                    groups.offset.back() <= y.rows,
                std::to_string(groups.offset.size()) + " offsets for " + std::to_string(weights.size()) + " experts");
    for (const Weight& w : weights) {
      CHOIR_CHECK(w.packed() && w.cols <= call.input.x.cols && w.rows <= y.cols,
                  std::to_string(w.cols) + " vs " + std::to_string(call.input.x.cols));
      CHOIR_CHECK(!wants_blocks(w.type) || call.input.blocks.size() == blocks_of(groups, call.input.x.cols),
                  std::to_string(call.input.blocks.size()) + " blocks");
      CHOIR_CHECK(!wants_pairs(w.type) ||
                      call.input.pairs.size() >= static_cast<size_t>(call.input.x.rows) * pairs_of(call.input.x.cols),
                  std::to_string(call.input.pairs.size()) + " pairs");
    }
  }
}

}  // namespace

void packed_forward(const Groups& groups, const PackedInput& input, std::span<const Product> products,
                    Threads& threads) {
  const Call call{groups, input, products};
  check(call);
  const Pieces pieces(call, threads.count());
  threads.for_each(pieces.count(), [&](int index) {
    const Piece piece = pieces.at(index);
    const Rows all{groups.offset[piece.expert], groups.offset[piece.expert + 1]};
    Tiles* const tiles = wants_blocks(piece.weight().type) ? byte_tiles : number_tiles;
    if (piece.weight().layout == tensor::Layout::kRowsToPanels) return passing_panels(call, all, piece, tiles);
    for (int row = all.begin; row < all.end; row += kRows)
      packed_panels(call, {row, std::min(all.end, row + kRows)}, piece, tiles);
  });
}

}  // namespace choir::kernels
