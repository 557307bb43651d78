#include "kernels/grouped_gemm.h"

#include <algorithm>
#include <array>
#include <string>

#include "base/error.h"
#include "kernels/gemm_tile.h"
#include "kernels/panel.h"

namespace choir::kernels {
namespace {

constexpr int kRows = 64;  // rows of one piece: their pointers fit on the stack, their numbers in the second cache
constexpr int kPieceWork = 1 << 17;  // multiply-adds of one piece: some microseconds

// A grid of pieces for each expert. Pieces only divide the work: no sum crosses from one into another.
class Pieces {
 public:
  // `rows(e)` and `cols(e)` are the sizes of expert e's result.
  template <class Rows, class Cols>
  Pieces(int experts, const Rows& rows, const Cols& cols, int row_step, int col_step)
      : experts_(experts), row_step_(row_step), col_step_(col_step) {
    for (int e = 0; e < experts; ++e) count_ += across(rows(e), row_step) * across(cols(e), col_step);
  }

  struct Piece {
    int expert, row, rows, col, cols;
  };

  int count() const { return count_; }

  template <class Rows, class Cols>
  Piece at(int index, const Rows& rows, const Cols& cols) const {
    for (int e = 0; e < experts_; ++e) {
      const int wide = across(cols(e), col_step_), mine = across(rows(e), row_step_) * wide;
      if (index >= mine) {
        index -= mine;
        continue;
      }
      const int row = index / wide * row_step_, col = index % wide * col_step_;
      return {e, row, std::min(row_step_, rows(e) - row), col, std::min(col_step_, cols(e) - col)};
    }
    CHOIR_CHECK(false, "piece " + std::to_string(index) + " of " + std::to_string(count_));
  }

 private:
  static int across(int size, int step) { return (size + step - 1) / step; }

  int experts_, row_step_, col_step_, count_ = 0;
};

int step_for(int rows, int depth, int multiple) {
  const int wanted = kPieceWork / std::max(1, rows * std::max(depth, 1));
  return std::max(1, wanted / multiple) * multiple;
}

// Rows of a piece, at most `most`, of a single matrix whose pieces are few: every thread gets as many.
int even_step(int rows, int most, int threads) {
  const int parts = std::max(1, (rows + most * threads - 1) / (most * threads)) * threads;
  return std::min(most, (rows / parts + kPanelTile) / kPanelTile * kPanelTile);
}

void check_groups(const Groups& groups, size_t experts, int positions) {
  CHOIR_CHECK(groups.offset.size() == experts + 1 && groups.offset.front() == 0 && groups.offset.back() <= positions,
              std::to_string(groups.offset.size()) + " offsets for " + std::to_string(experts) + " experts");
}

const Versions<void(const PanelBlock&)>& panel_for(Sums sums) {
  return sums == Sums::kRounded ? kRoundedPanel : kPanel;
}

// Every piece packs the columns of the weight that it needs, so more rows a piece pack less often.
void packed_forward(const Groups& groups, Matrix<const float> x, std::span<const Weight> w, Matrix<float> y, Sums sums,
                    Threads& threads) {
  constexpr int kPackedRows = kPanelMostRows, kPackedCols = 128;
  const auto rows = [&](int e) { return groups.offset[e + 1] - groups.offset[e]; };
  const auto cols = [&](int e) { return w[e].rows; };
  const Pieces pieces(groups.count(), rows, cols, kPackedRows, kPackedCols);
  threads.for_each(pieces.count(), [&](int index) {
    const Pieces::Piece piece = pieces.at(index, rows, cols);
    const Matrix<const float> weight = tensor::as_matrix(w[piece.expert]);
    CHOIR_CHECK(weight.cols <= x.cols, std::to_string(weight.cols) + " vs " + std::to_string(x.cols));
    const int first = groups.offset[piece.expert] + piece.row;
    std::array<const float*, kPackedRows> sources;
    for (int r = 0; r < piece.rows; ++r) sources[r] = x[groups.source(first + r)];
    panel_for(sums)(PanelBlock{.a_rows = sources.data(),
                               .w = weight[piece.col],
                               .w_stride = weight.stride,
                               .y = y[first] + piece.col,
                               .y_stride = y.stride,
                               .rows = piece.rows,
                               .cols = piece.cols,
                               .depth = weight.cols});
  });
}

}  // namespace

void grouped_forward(const Groups& groups, Matrix<const float> x, std::span<const Weight> w, Matrix<float> y,
                     Threads& threads, Sums sums) {
  check_groups(groups, w.size(), y.rows);
  if (sums != Sums::kLanes) return packed_forward(groups, x, w, y, sums, threads);
  const auto rows = [&](int e) { return groups.offset[e + 1] - groups.offset[e]; };
  const auto cols = [&](int e) { return w[e].rows; };
  int most = 0;
  for (int e = 0; e < groups.count(); ++e) most = std::max(most, rows(e));
  const Pieces pieces(groups.count(), rows, cols, kRows, step_for(std::min(most, kRows), x.cols, 16));
  threads.for_each(pieces.count(), [&](int index) {
    const Pieces::Piece piece = pieces.at(index, rows, cols);
    const Weight& weight = w[piece.expert];
    CHOIR_CHECK(weight.cols <= x.cols, std::to_string(weight.cols) + " vs " + std::to_string(x.cols));
    const int first = groups.offset[piece.expert] + piece.row;
    std::array<const float*, kRows> sources;
    for (int r = 0; r < piece.rows; ++r) sources[r] = x[groups.source(first + r)];
    dot_for(weight.type)(DotBlock{.x = sources.data(),
                                  .w = weight.row(piece.col).data,
                                  .w_stride = weight.cols,
                                  .y = y[first] + piece.col,
                                  .y_stride = y.stride,
                                  .rows = piece.rows,
                                  .cols = piece.cols,
                                  .depth = weight.cols});
  });
}

// A gradient's piece: its panels of both operands stay in the second cache.
constexpr int kGradientCols = 256;

void grouped_backward_input(const Groups& groups, Matrix<const float> dy, std::span<const Matrix<const float>> w,
                            Matrix<float> dx, Target target, Threads& threads) {
  check_groups(groups, w.size(), dy.rows);
  constexpr int kInputRows = kPanelMostRows;
  constexpr int kDepth = 512;  // rows of the weight whose pointers fit on the stack
  const auto rows = [&](int e) { return groups.offset[e + 1] - groups.offset[e]; };
  const auto cols = [&](int e) { return w[e].cols; };
  const Pieces pieces(groups.count(), rows, cols, kInputRows, kGradientCols);
  threads.for_each(pieces.count(), [&](int index) {
    const Pieces::Piece piece = pieces.at(index, rows, cols);
    const Matrix<const float>& weight = w[piece.expert];
    const int first = groups.offset[piece.expert] + piece.row;
    std::array<const float*, kInputRows> a;
    std::array<const float*, kDepth> b;
    for (int done = 0; done < weight.rows; done += kDepth) {
      const int depth = std::min(kDepth, weight.rows - done);
      for (int r = 0; r < piece.rows; ++r) a[r] = dy[first + r] + done;
      for (int p = 0; p < depth; ++p) b[p] = weight[done + p] + piece.col;
      panel_for(target.sums)(PanelBlock{.a_rows = a.data(),
                                        .b_rows = b.data(),
                                        .y = dx[first] + piece.col,
                                        .y_stride = dx.stride,
                                        .rows = piece.rows,
                                        .cols = piece.cols,
                                        .depth = depth,
                                        .add = target.write == Write::kAdd || done > 0});
    }
  });
}

void grouped_backward_weight(const Groups& groups, Matrix<const float> dy, Matrix<const float> x,
                             std::span<const Matrix<float>> dw, Threads& threads, Sums sums) {
  check_groups(groups, dw.size(), dy.rows);
  constexpr int kDepth = 512;  // tokens whose pointers fit on the stack
  const auto rows = [&](int e) { return groups.offset[e + 1] > groups.offset[e] ? dw[e].rows : 0; };
  const auto cols = [&](int e) { return dw[e].cols; };
  const int step = groups.count() > 1 ? kPanelRows : even_step(rows(0), kPanelRows, threads.count());
  const Pieces pieces(groups.count(), rows, cols, step, kGradientCols);
  threads.for_each(pieces.count(), [&](int index) {
    const Pieces::Piece piece = pieces.at(index, rows, cols);
    std::array<const float*, kDepth> b;
    for (int from = groups.offset[piece.expert]; from < groups.offset[piece.expert + 1]; from += kDepth) {
      const int depth = std::min(kDepth, groups.offset[piece.expert + 1] - from);
      for (int p = 0; p < depth; ++p) b[p] = x[groups.source(from + p)] + piece.col;
      panel_for(sums)(PanelBlock{.a = dy[from] + piece.row,
                                 .a_step = dy.stride,
                                 .b_rows = b.data(),
                                 .y = dw[piece.expert][piece.row] + piece.col,
                                 .y_stride = dw[piece.expert].stride,
                                 .rows = piece.rows,
                                 .cols = piece.cols,
                                 .depth = depth,
                                 .add = true});
    }
  });
}

// A linear map is one expert that takes every row.
namespace {

struct OneGroup {
  std::array<int32_t, 2> offset;
  explicit OneGroup(int rows) : offset{0, rows} {}
  Groups groups() const { return {offset, {}}; }
};

}  // namespace

void gemm_forward(Matrix<const float> x, const Weight& w, Matrix<float> y, Threads& threads, Sums sums) {
  CHOIR_CHECK(w.cols == x.cols, std::to_string(w.cols) + " vs " + std::to_string(x.cols));
  grouped_forward(OneGroup(x.rows).groups(), x, {&w, 1}, y, threads, sums);
}

void gemm_backward_input(Matrix<const float> dy, Matrix<const float> w, Matrix<float> dx, Target target,
                         Threads& threads) {
  grouped_backward_input(OneGroup(dy.rows).groups(), dy, {&w, 1}, dx, target, threads);
}

void gemm_backward_weight(Matrix<const float> dy, Matrix<const float> x, Matrix<float> dw, Threads& threads,
                          Sums sums) {
  grouped_backward_weight(OneGroup(dy.rows).groups(), dy, x, {&dw, 1}, threads, sums);
}

}  // namespace choir::kernels
