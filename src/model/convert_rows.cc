#include "model/convert_rows.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "kernels/packed_gemm.h"
#include "model/gguf_names.h"
#include "model/packed_file.h"

namespace choir::model {
namespace {

using tensor::DType;

constexpr int64_t kPiece = 1 << 20;  // numbers that are in memory at a time, or one row

// A NaN fails both comparisons.
void check_range(std::span<const float> numbers, DType type, const TensorInfo& info, const std::string& where) {
  const float most = tensor::largest(type);
  const auto fits = [&](float x) { return std::fabs(x) <= most && std::isfinite(x); };
  if (!std::ranges::all_of(numbers, fits))
    base::input_error("tensor " + info.name + " holds a number that " + std::string(tensor::name_of(type)) +
                          " has no finite counterpart of",
                      where, "choose a type of wider range, or repair the model");
}

class Piece {
 public:
  Piece(DType type, const TensorInfo& info, const std::string& where, const Write& write)
      : type_(type), info_(info), where_(where), write_(write) {}

  std::vector<float>& numbers() { return numbers_; }
  void flush() {
    check_range(numbers_, type_, info_, where_);
    bytes_.resize(tensor::bytes_of(type_, numbers_.size()));
    tensor::narrow(numbers_, type_, bytes_);
    write_(bytes_);
    numbers_.clear();
  }

 private:
  DType type_;
  const TensorInfo& info_;
  const std::string& where_;
  const Write& write_;
  std::vector<float> numbers_;
  std::vector<std::byte> bytes_;
};

void copy_rows(const Weight& weight, const RowTurn& turn, const Write& write) {
  const auto* data = static_cast<const std::byte*>(weight.data);
  if (turn.head_width == 0) return write({data, weight.bytes()});
  for (int r = 0; r < weight.rows; ++r) {
    const Weight row = weight.row(static_cast<int>(turn.source_of(r)));
    write({static_cast<const std::byte*>(row.data), row.bytes()});
  }
}

}  // namespace

int64_t RowTurn::source_of(int64_t row) const {
  if (head_width == 0) return row;
  return to_neighbours ? row_of_neighbours(row, head_width) : row_of_halves(row, head_width);
}

void write_rows(const TensorInfo& info, const Weight& weight, const RowTurn& turn, DType type, const std::string& where,
                const Write& write) {
  // A vector is rows of one number, or one row where the order stays.
  Weight rows = weight;
  if (turn.head_width > 0 && info.vector) std::swap(rows.rows, rows.cols);
  if (type == rows.type) return copy_rows(rows, turn, write);
  Piece piece(type, info, where, write);
  const auto cols = static_cast<size_t>(rows.cols);
  const int64_t step = std::max<int64_t>(1, kPiece / std::max(1, rows.cols));
  for (int64_t begin = 0; begin < rows.rows; begin += step) {
    const int64_t end = std::min<int64_t>(rows.rows, begin + step);
    piece.numbers().resize(static_cast<size_t>(end - begin) * cols);
    for (int64_t r = begin; r < end; ++r)
      tensor::widen(rows.row(static_cast<int>(turn.source_of(r))),
                    std::span(piece.numbers()).subspan(static_cast<size_t>(r - begin) * cols, cols));
    piece.flush();
  }
}

PanelWriter::PanelWriter(const Weight& packed, const Write& write)
    : panel_(nullptr, packed.type, kernels::kPanelOutputs, packed.cols),
      rows_left_(packed.rows),
      write_(write),
      bytes_(kernels::packed_bytes(packed.type, kernels::kPanelOutputs, packed.cols)),
      left_(bytes_in_file(packed)) {}

void PanelWriter::take(std::span<const std::byte> piece) {
  while (!piece.empty()) {
    const size_t count = std::min(piece.size(), panel_.bytes() - rows_.size());
    rows_.insert(rows_.end(), piece.begin(), piece.begin() + static_cast<ptrdiff_t>(count));
    piece = piece.subspan(count);
    if (rows_.size() == panel_.bytes()) flush();
  }
}

void PanelWriter::flush() {
  Weight rows = panel_;
  rows.data = rows_.data();
  rows.rows = std::min(panel_.rows, rows_left_);
  CHOIR_CHECK(rows_.size() == rows.bytes(), std::to_string(rows_.size()) + " bytes of rows");
  kernels::pack_panel(rows, 0, bytes_.data());
  write_(bytes_);
  rows_left_ -= rows.rows;
  left_ -= bytes_.size();
  rows_.clear();
}

void PanelWriter::finish() {
  if (rows_left_ > 0) flush();
  write_(std::vector<std::byte>(left_));
}

void write_transposed(const TensorInfo& info, const Weight& first, const Weight* second, DType type,
                      const std::string& where, const Write& write) {
  const auto rows = static_cast<size_t>(first.rows), cols = static_cast<size_t>(first.cols);
  std::vector<float> a(first.size()), b(second ? second->size() : 0);
  tensor::widen(first, a);
  if (second) tensor::widen(*second, b);
  Piece piece(type, info, where, write);
  for (size_t c = 0; c < cols; ++c) {
    for (size_t r = 0; r < rows; ++r) {
      piece.numbers().push_back(a[r * cols + c]);
      if (second) piece.numbers().push_back(b[r * cols + c]);
    }
    if (static_cast<int64_t>(piece.numbers().size()) >= kPiece || c + 1 == cols) piece.flush();
  }
}

}  // namespace choir::model
