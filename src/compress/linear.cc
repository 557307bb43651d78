#include "compress/linear.h"

#include <cmath>
#include <cstddef>

namespace choir::compress {
namespace {

double dot(const double* a, const double* b, size_t size) {
  double sum = 0;
  for (size_t i = 0; i < size; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

bool factorize(std::span<double> a, int n) {
  const auto size = static_cast<size_t>(n);
  for (size_t i = 0; i < size; ++i) {
    double* row = a.data() + i * size;
    for (size_t j = 0; j < i; ++j) {
      const double* other = a.data() + j * size;
      row[j] = (row[j] - dot(row, other, j)) / other[j];
    }
    const double pivot = row[i] - dot(row, row, i);
    if (!(pivot > 0)) return false;
    row[i] = std::sqrt(pivot);
  }
  return true;
}

void solve(std::span<const double> factor, int n, std::span<double> b) {
  const auto size = static_cast<size_t>(n);
  for (size_t i = 0; i < size; ++i) b[i] = (b[i] - dot(factor.data() + i * size, b.data(), i)) / factor[i * size + i];
  for (size_t i = size; i-- > 0;) {
    b[i] /= factor[i * size + i];
    for (size_t j = 0; j < i; ++j) b[j] -= factor[i * size + j] * b[i];
  }
}

}  // namespace choir::compress
