#include "kernels/packed_gemm.h"

#include <algorithm>
#include <array>
#include <string>

#include "base/error.h"
#include "kernels/byte_tile.h"
#include "kernels/gemm_tile.h"
#include "kernels/lane_tile.h"
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

int panels_of(const Weight& w) { return (w.rows + panel_rows(w.type) - 1) / panel_rows(w.type); }

ptrdiff_t panel_bytes(const Weight& w) {
  return static_cast<ptrdiff_t>(packed_bytes(w.type, panel_rows(w.type), w.cols));
}

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

// Some panels that go by together, or of each of them some blocks.
struct Panels {
  const std::byte* data;
  ptrdiff_t bytes;  // from one to the next
  int first, count, block, blocks;
};

void byte_tiles(const Call& call, const Rows& rows, const Piece& piece, const Panels& panels) {
  const Weight& w = piece.weight();
  const Matrix<float>& y = piece.product->y;
  const int stride = call.input.x.cols / RowBlock::kNumbers;  // blocks of a row
  const int col = panels.first * kPanelOutputs;
  const auto& some_tile = *byte_tile_for(w.type);
  for (int i = rows.begin; i < rows.end; i += kTileRows) {
    const TileRows tile = tile_of(i, call.groups.offset[piece.expert], call.groups.offset[piece.expert + 1]);
    some_tile(ByteTile{.x = call.input.blocks.data() + static_cast<ptrdiff_t>(i) * stride + panels.block * tile.rows,
                       .panel = panels.data,
                       .panel_bytes = panels.bytes,
                       .y = y[i] + col,
                       .y_stride = y.stride,
                       .rows = tile.rows,
                       .cols = std::min(panels.count * kPanelOutputs, w.rows - col),
                       .blocks = panels.blocks,
                       .more = panels.block > 0});
  }
}

// The panels first .. first + count - 1 of its weight go by, some at a time.
void byte_rows(const Call& call, const Rows& rows, const Piece& piece) {
  const Weight& w = piece.weight();
  const ptrdiff_t bytes = panel_bytes(w);
  const int end = piece.first + piece.count;
  for (int panel = piece.first; panel < end; panel += kTilePanels)
    byte_tiles(call, rows, piece,
               {static_cast<const std::byte*>(w.data) + panel * bytes, bytes, panel, std::min(kTilePanels, end - panel),
                0, w.cols / RowBlock::kNumbers});
}

// The same of a weight in rows: some blocks of some panels are made, and all rows pass by.
void byte_rows_to_panels(const Call& call, const Rows& rows, const Piece& piece) {
  constexpr int kBlocks = 32, kMostBytes = 17 * RowBlock::kNumbers;  // of a block of sixteen rows, Q8_0's
  alignas(64) std::array<std::byte, static_cast<size_t>(kTilePanels) * kBlocks * kMostBytes> made;
  const Weight& w = piece.weight();
  const int end = piece.first + piece.count, blocks = w.cols / RowBlock::kNumbers;
  const ptrdiff_t bytes = panel_bytes(w) / blocks * kBlocks;
  CHOIR_CHECK(bytes * kTilePanels <= static_cast<ptrdiff_t>(made.size()), std::string(tensor::name_of(w.type)));
  for (int panel = piece.first; panel < end; panel += kTilePanels)
    for (int block = 0; block < blocks; block += kBlocks) {
      const int count = std::min(kTilePanels, end - panel), last = std::min(blocks, block + kBlocks);
      for (int p = 0; p < count; ++p) pack_blocks(w, (panel + p) * kPanelOutputs, block, last, made.data() + p * bytes);
      byte_tiles(call, rows, piece, {made.data(), bytes, panel, count, block, last - block});
    }
}

// Numbers in rows need no panels for the same bits.
void lane_rows(const Call& call, const Rows& rows, const Piece& piece) {
  const Weight& w = piece.weight();
  const Matrix<float>& y = piece.product->y;
  std::array<const float*, kRows> sources;
  for (int i = rows.begin; i < rows.end; ++i) sources[i - rows.begin] = call.input.x[call.groups.source(i)];
  if (w.layout == tensor::Layout::kRowsToPanels) {
    const int col = piece.first * kLanePanel;
    return dot_for(w.type)(DotBlock{.x = sources.data(),
                                    .w = w.row(col).data,
                                    .w_stride = w.cols,
                                    .y = y[rows.begin] + col,
                                    .y_stride = y.stride,
                                    .rows = rows.end - rows.begin,
                                    .cols = std::min(piece.count * kLanePanel, w.rows - col),
                                    .depth = w.cols});
  }
  const auto& some_tile = *lane_tile_for(w.type);
  const ptrdiff_t bytes = panel_bytes(w);
  for (int panel = piece.first; panel < piece.first + piece.count; ++panel) {
    const int col = panel * kLanePanel;
    some_tile(LaneTile{.x = sources.data(),
                       .panel = static_cast<const std::byte*>(w.data) + panel * bytes,
                       .y = y[rows.begin] + col,
                       .y_stride = y.stride,
                       .rows = rows.end - rows.begin,
                       .cols = std::min(kLanePanel, w.rows - col),
                       .depth = w.cols});
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
    const int end = groups.offset[piece.expert + 1];
    if (piece.weight().layout == tensor::Layout::kRowsToPanels && wants_blocks(piece.weight().type))
      return byte_rows_to_panels(call, {groups.offset[piece.expert], end}, piece);
    const auto some_rows = wants_blocks(piece.weight().type) ? byte_rows : lane_rows;
    for (int row = groups.offset[piece.expert]; row < end; row += kRows)
      some_rows(call, {row, std::min(end, row + kRows)}, piece);
  });
}

}  // namespace choir::kernels
