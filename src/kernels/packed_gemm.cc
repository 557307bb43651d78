#include "kernels/packed_gemm.h"

#include <algorithm>
#include <array>
#include <string>

#include "base/error.h"
#include "kernels/byte_tile.h"
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

// The panels first .. first + count - 1 of its weight go by, some at a time.
void byte_rows(const Call& call, const Rows& rows, const Piece& piece) {
  const Weight& w = piece.weight();
  const auto* panels = static_cast<const std::byte*>(w.data);
  const Matrix<float>& y = piece.product->y;
  const int stride = call.input.x.cols / RowBlock::kNumbers;  // blocks of a row
  const auto& some_tile = *byte_tile_for(w.type);
  const ptrdiff_t bytes = panel_bytes(w);
  for (int panel = piece.first; panel < piece.first + piece.count; panel += kTilePanels)
    for (int i = rows.begin; i < rows.end; i += kTileRows) {
      const TileRows tile = tile_of(i, call.groups.offset[piece.expert], call.groups.offset[piece.expert + 1]);
      const int col = panel * kPanelOutputs;
      const int cols = std::min(kTilePanels, piece.first + piece.count - panel) * kPanelOutputs;
      some_tile(ByteTile{.x = call.input.blocks.data() + static_cast<ptrdiff_t>(i) * stride,
                         .panel = panels + panel * bytes,
                         .panel_bytes = bytes,
                         .y = y[i] + col,
                         .y_stride = y.stride,
                         .rows = tile.rows,
                         .cols = std::min(cols, w.rows - col),
                         .blocks = w.cols / RowBlock::kNumbers});
    }
}

void lane_rows(const Call& call, const Rows& rows, const Piece& piece) {
  const Weight& w = piece.weight();
  const Matrix<float>& y = piece.product->y;
  std::array<const float*, kRows> sources;
  for (int i = rows.begin; i < rows.end; ++i) sources[i - rows.begin] = call.input.x[call.groups.source(i)];
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
    const auto some_rows = wants_blocks(piece.weight().type) ? byte_rows : lane_rows;
    for (int row = groups.offset[piece.expert]; row < end; row += kRows)
      some_rows(call, {row, std::min(end, row + kRows)}, piece);
  });
}

}  // namespace choir::kernels
