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

// Panels first .. first + count - 1 of an expert, for all its rows.
struct Piece {
  int expert, first, count;
};

int panels_of(const PackedWeight& w) { return (w.rows + panel_rows(w.type) - 1) / panel_rows(w.type); }

ptrdiff_t panel_bytes(const PackedWeight& w) {
  return static_cast<ptrdiff_t>(packed_bytes(w.type, panel_rows(w.type), w.cols));
}

// Pieces only divide the work: no sum crosses from one into another. Small weights are cut finer, for all threads to
// have some.
class Pieces {
 public:
  Pieces(const Groups& groups, std::span<const PackedWeight> w, int threads) : groups_(groups), w_(w) {
    size_t bytes = 0;
    for (int e = 0; e < groups.count(); ++e) bytes += has_rows(e) ? packed_bytes(w[e].type, w[e].rows, w[e].cols) : 0;
    bytes_ = std::min(kPieceBytes, bytes / (4 * static_cast<size_t>(threads)));
    for (int e = 0; e < groups.count(); ++e) count_ += pieces_of(e);
  }

  int count() const { return count_; }

  Piece at(int index) const {
    for (int e = 0; e < groups_.count(); ++e) {
      if (index < pieces_of(e)) {
        const int first = index * step(e);
        return {e, first, std::min(step(e), panels_of(w_[e]) - first)};
      }
      index -= pieces_of(e);
    }
    CHOIR_CHECK(false, "piece " + std::to_string(index) + " too many");
  }

 private:
  bool has_rows(int e) const { return groups_.offset[e + 1] > groups_.offset[e]; }
  int step(int e) const {
    return std::max(1, static_cast<int>(bytes_ / std::max<size_t>(1, static_cast<size_t>(panel_bytes(w_[e])))));
  }
  int pieces_of(int e) const { return has_rows(e) ? (panels_of(w_[e]) + step(e) - 1) / step(e) : 0; }

  const Groups& groups_;
  std::span<const PackedWeight> w_;
  size_t bytes_;
  int count_ = 0;
};

struct Call {
  const Groups& groups;
  const PackedInput& input;
  std::span<const PackedWeight> w;
  Matrix<float> y;
};

// Positions begin .. end - 1, some tiles of an expert's.
struct Rows {
  int begin, end;
};

// The panels first .. first + count - 1 of its weight go by, some at a time.
void byte_rows(const Call& call, const Rows& rows, const Piece& piece) {
  const PackedWeight& w = call.w[piece.expert];
  const int stride = call.input.x.cols / RowBlock::kNumbers;  // blocks of a row
  const auto& some_tile = *byte_tile_for(w.type);
  const ptrdiff_t bytes = panel_bytes(w);
  for (int panel = piece.first; panel < piece.first + piece.count; panel += kTilePanels)
    for (int i = rows.begin; i < rows.end; i += kTileRows) {
      const TileRows tile = tile_of(i, call.groups.offset[piece.expert], call.groups.offset[piece.expert + 1]);
      const int col = panel * kPanelOutputs;
      const int cols = std::min(kTilePanels, piece.first + piece.count - panel) * kPanelOutputs;
      some_tile(ByteTile{.x = call.input.blocks.data() + static_cast<ptrdiff_t>(i) * stride,
                         .panel = w.data + panel * bytes,
                         .panel_bytes = bytes,
                         .y = call.y[i] + col,
                         .y_stride = call.y.stride,
                         .rows = tile.rows,
                         .cols = std::min(cols, w.rows - col),
                         .blocks = w.cols / RowBlock::kNumbers});
    }
}

void lane_rows(const Call& call, const Rows& rows, const Piece& piece) {
  const PackedWeight& w = call.w[piece.expert];
  std::array<const float*, kRows> sources;
  for (int i = rows.begin; i < rows.end; ++i) sources[i - rows.begin] = call.input.x[call.groups.source(i)];
  const auto& some_tile = *lane_tile_for(w.type);
  const ptrdiff_t bytes = panel_bytes(w);
  for (int panel = piece.first; panel < piece.first + piece.count; ++panel) {
    const int col = panel * kLanePanel;
    some_tile(LaneTile{.x = sources.data(),
                       .panel = w.data + panel * bytes,
                       .y = call.y[rows.begin] + col,
                       .y_stride = call.y.stride,
                       .rows = rows.end - rows.begin,
                       .cols = std::min(kLanePanel, w.rows - col),
                       .depth = w.cols});
  }
}

void check(const Call& call) {
  const Groups& groups = call.groups;
  CHOIR_CHECK(groups.count() == static_cast<int>(call.w.size()) && groups.offset.front() == 0 &&
                  groups.offset.back() <= call.y.rows,
              std::to_string(groups.offset.size()) + " offsets for " + std::to_string(call.w.size()) + " experts");
  for (const PackedWeight& w : call.w) {
    CHOIR_CHECK(w.cols <= call.input.x.cols && w.rows <= call.y.cols,
                std::to_string(w.cols) + " vs " + std::to_string(call.input.x.cols));
    CHOIR_CHECK(!wants_blocks(w.type) || call.input.blocks.size() == blocks_of(groups, call.input.x.cols),
                std::to_string(call.input.blocks.size()) + " blocks");
  }
}

}  // namespace

void packed_forward(const Groups& groups, const PackedInput& input, std::span<const PackedWeight> w, Matrix<float> y,
                    Threads& threads) {
  const Call call{groups, input, w, y};
  check(call);
  const Pieces pieces(groups, w, threads.count());
  threads.for_each(pieces.count(), [&](int index) {
    const Piece piece = pieces.at(index);
    const int end = groups.offset[piece.expert + 1];
    const auto some_rows = wants_blocks(w[piece.expert].type) ? byte_rows : lane_rows;
    for (int row = groups.offset[piece.expert]; row < end; row += kRows)
      some_rows(call, {row, std::min(end, row + kRows)}, piece);
  });
}

}  // namespace choir::kernels
