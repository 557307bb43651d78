// Libraries to compare products with: those that were there when this was built.
#pragma once

#include <string>
#include <vector>

namespace choir::bench {

// c (m,n) = a b + beta c, row-major without gaps; a is (m,k), or stored as (k,m) when transposed, b likewise (k,n).
struct Multiply {
  bool transpose_a, transpose_b;
  int m, n, k;
  const float *a, *b;
  float* c;
  float beta;
};

struct Peer {
  std::string name;
  void (*multiply)(const Multiply& call);
};

void add_openblas(std::vector<Peer>& peers);  // peer_openblas.cc, or no_openblas.cc
void add_onednn(std::vector<Peer>& peers);    // peer_onednn.cc, or no_onednn.cc

inline std::vector<Peer> all_peers() {
  std::vector<Peer> peers;
  add_openblas(peers);
  add_onednn(peers);
  return peers;
}

}  // namespace choir::bench
