// The streams of numbers that a conversion is made of.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "model/source.h"

namespace choir::model {

using Write = std::function<void(std::span<const std::byte>)>;

// The order of rows, by heads of so many rows each; 0: as they are.
struct RowTurn {
  int head_width = 0;
  bool to_neighbours = false;

  int64_t source_of(int64_t row) const;
};

// Writes the rows of a weight in another order and type, some at a time. Throws Error (input) that names `info` for a
// number that the type cannot hold.
void write_rows(const TensorInfo& info, const Weight& weight, const RowTurn& turn, tensor::DType type,
                const std::string& where, const Write& write);

// Takes a weight's rows in pieces of any size and writes its panels, as a file has them.
class PanelWriter {
 public:
  PanelWriter(const Weight& packed, const Write& write);  // its data is not looked at; `write` must outlive it

  void take(std::span<const std::byte> piece);
  void finish();

 private:
  void flush();

  Weight panel_;  // its rows
  int rows_left_;
  const Write& write_;
  std::vector<std::byte> rows_, bytes_;
  size_t left_;  // to write
};

// Writes two weights of one expert, or one, transposed and with their columns in turn: as interleaved families stack
// them. `second` may be null.
void write_transposed(const TensorInfo& info, const Weight& first, const Weight* second, tensor::DType type,
                      const std::string& where, const Write& write);

}  // namespace choir::model
