#include <cblas.h>

#include "bench/peers.h"

namespace choir::bench {
namespace {

void multiply(const Multiply& c) {
  cblas_sgemm(CblasRowMajor, c.transpose_a ? CblasTrans : CblasNoTrans, c.transpose_b ? CblasTrans : CblasNoTrans, c.m,
              c.n, c.k, 1, c.a, c.transpose_a ? c.m : c.k, c.b, c.transpose_b ? c.k : c.n, c.beta, c.c, c.n);
}

}  // namespace

void add_openblas(std::vector<Peer>& peers) {
  peers.push_back(one_by_one("openblas_" + std::string(openblas_get_corename()), multiply));
}

}  // namespace choir::bench
