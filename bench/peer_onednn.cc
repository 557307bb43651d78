#include <oneapi/dnnl/dnnl.h>

#include "bench/peers.h"

namespace choir::bench {
namespace {

void multiply(const Multiply& c) {
  dnnl_sgemm(c.transpose_a ? 'T' : 'N', c.transpose_b ? 'T' : 'N', c.m, c.n, c.k, 1, c.a, c.transpose_a ? c.m : c.k,
             c.b, c.transpose_b ? c.k : c.n, c.beta, c.c, c.n);
}

}  // namespace

void add_onednn(std::vector<Peer>& peers) { peers.push_back(one_by_one("onednn", multiply)); }

}  // namespace choir::bench
