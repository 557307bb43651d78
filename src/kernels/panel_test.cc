#include "kernels/panel.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "kernels/reference/compare.h"
#include "tensor/view.h"

namespace choir::kernels {
namespace {

// The numbers as the rounded product reads them under an instruction set.
std::vector<float> as_read(std::vector<float> values, Isa isa) {
  if (isa != Isa::kBf16) return values;
  std::vector<std::byte> halves(values.size() * sizeof(tensor::BF16));
  tensor::narrow(values, tensor::DType::kBF16, halves);
  tensor::widen({halves.data(), tensor::DType::kBF16, 1, static_cast<int>(values.size())}, values);
  return values;
}

// Both operands of a product (rows, depth) (depth, cols), each in both layouts that a block may read.
struct Problem {
  int rows, cols, depth;
  std::vector<float> a, a_turned, b, b_turned;
  std::vector<const float*> a_rows, b_rows;

  Problem(int r, int c, int d)
      : rows(r),
        cols(c),
        depth(d),
        a(reference::narrow(reference::random(static_cast<size_t>(r * d), 1, 1))),
        a_turned(a.size()),
        b(reference::narrow(reference::random(static_cast<size_t>(d * c), 1, 2))),
        b_turned(b.size()) {
    for (int i = 0; i < rows; ++i)
      for (int p = 0; p < depth; ++p) a_turned[p * rows + i] = a[i * depth + p];
    for (int p = 0; p < depth; ++p)
      for (int j = 0; j < cols; ++j) b_turned[j * depth + p] = b[p * cols + j];
    for (int i = 0; i < rows; ++i) a_rows.push_back(&a[i * depth]);
    for (int p = 0; p < depth; ++p) b_rows.push_back(&b[p * cols]);
  }

  std::vector<double> expected(double before) const {
    std::vector<double> y(static_cast<size_t>(rows * cols), before);
    for (int i = 0; i < rows; ++i)
      for (int p = 0; p < depth; ++p)
        for (int j = 0; j < cols; ++j)
          y[i * cols + j] += static_cast<double>(a[i * depth + p]) * static_cast<double>(b[p * cols + j]);
    return y;
  }

  PanelBlock block(bool columns, bool weight, std::vector<float>& y) const {
    PanelBlock block;
    if (columns) {
      block.a = a_turned.data();
      block.a_step = rows;
    } else {
      block.a_rows = a_rows.data();
    }
    if (weight) {
      block.w = b_turned.data();
      block.w_stride = depth;
    } else {
      block.b_rows = b_rows.data();
    }
    block.y = y.data();
    block.y_stride = cols;
    block.rows = rows;
    block.cols = cols;
    block.depth = depth;
    return block;
  }
};

// Calls check(problem, block, expected) for every kind of edge, both layouts of both operands, set and added.
template <class Check>
void each_block(const Check& check) {
  for (const int rows : {1, 5, 6, 13, 96})
    for (const int cols : {1, 15, 16, 31, 64, 70, 130})
      for (const int depth : {1, 17, 128, 129, 300}) {
        if (rows * cols * depth > 400000) continue;
        CAPTURE(rows);
        CAPTURE(cols);
        CAPTURE(depth);
        const Problem p(rows, cols, depth);
        for (const bool columns : {false, true})
          for (const bool weight : {false, true})
            for (const bool add : {false, true}) {
              std::vector<float> y(static_cast<size_t>(rows * cols), 3.0f);
              PanelBlock block = p.block(columns, weight, y);
              block.add = add;
              check(p, block, y);
            }
      }
}

TEST_CASE("panel: every version and layout agrees with plain loops, at every kind of edge") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    each_block([&](const Problem& p, const PanelBlock& block, const std::vector<float>& y) {
      kPanel.at(isa)(block);
      CHECK(reference::error(p.expected(block.add ? 3 : 0), y) < 2e-6);
    });
  });
}

TEST_CASE("panel: the rounded product is that of operands rounded beforehand") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    each_block([&](Problem p, const PanelBlock& block, const std::vector<float>& y) {
      kRoundedPanel.at(isa)(block);
      p.a = as_read(p.a, isa);
      p.b = as_read(p.b, isa);
      CHECK(reference::error(p.expected(block.add ? 3 : 0), y) < 2e-6);
    });
  });
}

TEST_CASE("panel: an element has the same bits in every layout, and alone") {
  for (const auto* product : {&kPanel, &kRoundedPanel}) {
    const Problem p(20, 75, 201);
    std::vector<float> first(20 * 75), other(first.size());
    (*product)(p.block(false, false, first));
    for (const auto& [columns, weight] : {std::pair{false, true}, {true, false}, {true, true}}) {
      (*product)(p.block(columns, weight, other));
      CHECK(other == first);
    }
    for (int i = 0; i < 20; ++i) {
      std::vector<float> row(75);
      PanelBlock block = p.block(false, true, row);
      block.a_rows += i;
      block.rows = 1;
      (*product)(block);
      CHECK(std::equal(row.begin(), row.end(), first.begin() + i * 75));
    }
  }
}

}  // namespace
}  // namespace choir::kernels
