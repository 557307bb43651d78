// propose "sinkhorn(k)": the k best experts of the scores as balanced by Sinkhorn's iteration (S-BASE,
// arXiv 2202.01169, section 3.1; Megatron-LM).
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

// While training u_t exp(z_te) v_e with rows that sum to 1/N and columns to 1/E, until v moves by 1e-4 at most in the
// mean; N counts tokens without padding, E experts that are not masked. u_t does not change a token's order, so what is
// compared is z_te + log v_e. A constant without a gradient. At evaluation the k best of z.
struct Sinkhorn {
  static constexpr const char* kName = "sinkhorn";
  static constexpr bool kCausal = false;
  int k = 1;

  static Sinkhorn read(Arguments& arguments);
  std::string text() const { return written(kName, {std::to_string(k)}); }
  int choices(int) const { return k; }
  void propose(const Context& context, Matrix<const float> key, std::vector<int32_t>& proposed) const;
};

}  // namespace choir::moe
