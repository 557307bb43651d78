// Blocks of numbers that somebody else owns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "tensor/dtype.h"

namespace choir::tensor {

// rows x cols numbers; row i begins at data + i * stride (in elements), columns are contiguous.
template <class T>
struct Matrix {
  T* data = nullptr;
  int rows = 0, cols = 0;
  ptrdiff_t stride = 0;

  Matrix() = default;
  Matrix(T* d, int r, int c) : Matrix(d, r, c, c) {}
  Matrix(T* d, int r, int c, ptrdiff_t s) : data(d), rows(r), cols(c), stride(s) {}
  template <class U>
  requires std::is_same_v<const U, T> Matrix(const Matrix<U>& other)
      : Matrix(other.data, other.rows, other.cols, other.stride) {}

  T* operator[](int row) const { return data + row * stride; }
  std::span<T> row(int i) const { return {data + i * stride, static_cast<size_t>(cols)}; }
  Matrix slice_rows(int begin, int count) const { return {data + begin * stride, count, cols, stride}; }
};

// How the numbers of a weight lie: row after row without gaps, as in files, or in panels, as products read them fastest
// (kernels/packed_gemm.h). kRowsToPanels: in rows, of which products make panels as they go; slower, the same bits.
// Panels are for products alone: all functions here want rows.
enum class Layout : uint8_t { kRows, kRowsToPanels, kPanels };

// The weight of a linear map, rows = outputs, cols = inputs, in the format of its file; of a format with blocks every
// row is whole blocks. Kernels widen it to float as they read it. A vector is a Weight of one row.
struct Weight {
  const void* data = nullptr;
  DType type = DType::kF32;
  Layout layout = Layout::kRows;
  int rows = 0, cols = 0;

  Weight() = default;
  Weight(const void* d, DType t, int r, int c) : data(d), type(t), rows(r), cols(c) {}
  Weight(Matrix<const float> m) : data(m.data), rows(m.rows), cols(m.cols) {}  // m must be without gaps

  size_t size() const { return static_cast<size_t>(rows) * static_cast<size_t>(cols); }
  size_t bytes() const { return static_cast<size_t>(rows) * bytes_of(type, static_cast<size_t>(cols)); }
  bool packed() const { return layout != Layout::kRows; }  // products go by panels
  Weight row(int i) const;  // a Weight of one row
};

// Float weights seen as numbers: what the backward products want. CHECKs that they are float.
Matrix<const float> as_matrix(const Weight& weight);
std::span<const float> as_vector(const Weight& weight);

// out[i] = element i of the weight, in row-major order. out.size() must be weight.size(). The data may begin at any
// address. For every floating-point format of up to 32 bits.
void widen(const Weight& weight, std::span<float> out);

// The reverse: values rounded to the nearest number of F32, BF16 or F16, or encoded in Q8_0 or Q4_0 blocks as ggml's
// reference encoder does. out.size() must be bytes_of(type, values.size()).
void narrow(std::span<const float> values, DType type, std::span<std::byte> out);

// The largest magnitude that narrow() takes to a finite number.
float largest(DType type);

}  // namespace choir::tensor
