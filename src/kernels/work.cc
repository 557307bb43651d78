#include "kernels/work.h"

#include <algorithm>

#include "kernels/packed_gemm.h"

namespace choir::kernels {
namespace {

constexpr int64_t kFloat = sizeof(float);

// Positions that are visible to someone, and pairs of a query with a position that it sees.
struct Seen {
  int64_t keys = 0, pairs = 0;
};

Seen seen_by(std::span<const Sequence> sequences, int window) {
  Seen seen;
  for (const Sequence& s : sequences) {
    const auto visible = [&](int position) { return window > 0 ? std::min(window, position + 1) : position + 1; };
    if (s.count > 0) seen.keys += s.count - 1 + visible(s.first);
    for (int i = 0; i < s.count; ++i) seen.pairs += visible(s.first + i);
  }
  return seen;
}

// Of a key and its value, or of a key that holds its value.
int64_t stored_width(const AttentionInput& in) {
  const bool inside = in.v.data >= in.k.data && in.v.data < in.k.data + in.k.cols;
  return in.shape.head_width + (inside ? 0 : in.shape.values());
}

}  // namespace

Work moved(int rows, int cols, int passes) { return {.others = kFloat * passes * rows * cols}; }

Work product_work(int rows, const Weight& w, const Weight& bias) {
  const int64_t n = rows, in = w.cols, out = w.rows;
  Work work{.weights = static_cast<int64_t>(w.bytes() + bias.bytes()), .others = kFloat * n * (in + out)};
  const bool bytes = w.packed() && wants_blocks(w.type);
  (bytes ? work.byte_operations : work.operations) = 2 * n * in * out;
  return work;
}

// dx = dy W and dW = dy^T x: dy and W are read, x is read, dx is written, dW added to.
Work product_backward_work(int rows, const Weight& w, const Weight& bias) {
  Work work = product_work(rows, w, {});
  const auto gradients = static_cast<int64_t>(w.size() + bias.size());
  work.others += kFloat * (static_cast<int64_t>(rows) * w.cols + 2 * gradients);
  work.operations *= 2;
  return work;
}

Work grouped_work(std::span<const int32_t> offset, std::span<const Weight> w, std::span<const Weight> bias) {
  Work work;
  for (size_t e = 0; e < w.size(); ++e)
    if (const int rows = offset[e + 1] - offset[e]; rows > 0)
      work += product_work(rows, w[e], bias.empty() ? Weight() : bias[e]);
  return work;
}

Work grouped_backward_work(std::span<const int32_t> offset, std::span<const Weight> w, std::span<const Weight> bias) {
  Work work;
  for (size_t e = 0; e < w.size(); ++e)
    if (const int rows = offset[e + 1] - offset[e]; rows > 0)
      work += product_backward_work(rows, w[e], bias.empty() ? Weight() : bias[e]);
  return work;
}

Work attention_work(const AttentionInput& in) {
  const Seen seen = seen_by(in.sequences, in.shape.window);
  const int64_t heads = in.shape.heads, kv_heads = in.shape.kv_heads, rows = in.q.rows / (in.by_heads ? heads : 1),
                widths = in.shape.head_width + in.shape.values();
  return {.weights = kFloat * static_cast<int64_t>(in.sinks.size()),
          .others = kFloat * (widths * rows * heads + stored_width(in) * seen.keys * kv_heads),
          .operations = 2 * heads * widths * seen.pairs};
}

// Scores again, dP, dV, and from the gradient of the scores dq and dk; q, k, v and out are read with the gradient of
// out, and the gradients of q, k and v written.
Work attention_backward_work(const AttentionInput& in) {
  Work work = attention_work(in);
  const Seen seen = seen_by(in.sequences, in.shape.window);
  const int64_t heads = in.shape.heads, width = in.shape.head_width;
  work.others *= 2;
  work.operations = 2 * work.operations + 2 * heads * width * seen.pairs;
  return work;
}

}  // namespace choir::kernels
