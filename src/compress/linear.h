// Small dense systems in double precision: what the repairs of a pruned layer solve.
#pragma once

#include <span>

namespace choir::compress {

// Turns the lower triangle of the symmetric a (n,n), row by row, into its Cholesky factor; the upper one is not read.
// False, and a is spoilt, where it is not positive definite.
bool factorize(std::span<double> a, int n);

// b = a^-1 b, by the factor of a.
void solve(std::span<const double> factor, int n, std::span<double> b);

}  // namespace choir::compress
