// What a layer's output becomes for a token that goes without some of its experts: numbers that calibration found, by
// how many experts stayed. A best factor for each such number, or moments of each channel (LDA, arXiv 2609.09241).
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

// The numbers are the router's own, outside the gradient. Row i - 1 of K - 1, for tokens of which i of K experts stay:
// with `factors` one factor; with `channels`, which is D, D factors and D shifts. Tokens that skip nothing have none.
struct Amends {
  bool factors = false;
  int channels = 0;
  int choices = 1;  // K: the router's proposals, which tell

  static Amends read(Arguments& arguments);
  std::string text() const;  // empty: none
  bool any() const { return factors || channels > 0; }
  int row() const { return factors ? 1 : 2 * channels; }  // numbers of one
  int size() const { return (choices - 1) * row(); }
  void initial(std::span<float> numbers) const;  // that change nothing

  // y (N,D) = factor y + shift, token by token.
  void forward(const Context& context, const Plan& plan, Matrix<float> y) const;
  // rows (M,D), the gradient of y at the token of each edge, takes the factor.
  void backward(const Context& context, const Plan& plan, Matrix<float> rows) const;

 private:
  const float* numbers_of(const Context& context, const Plan& plan, int token) const;  // null: it is not changed
};

}  // namespace choir::moe
