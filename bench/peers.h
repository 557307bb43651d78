// Libraries to compare products with: those that were there when this was built.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/threads.h"

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
  // Makes ready the calls of all experts, of one shape, and returns what does them. What is made ready, such as packed
  // weights, is not timed. A library without threads of its own uses those.
  std::function<std::function<void()>(const std::vector<Multiply>& calls, base::Threads& threads)> prepare;
};

// A library that is called for one expert after the other and has threads of its own.
inline Peer one_by_one(std::string name, void (*multiply)(const Multiply&)) {
  const auto prepare = [multiply](const std::vector<Multiply>& calls, base::Threads&) {
    return [multiply, calls] {
      for (const Multiply& call : calls) multiply(call);
    };
  };
  return {std::move(name), prepare};
}

void add_openblas(std::vector<Peer>& peers);  // peer_openblas.cc, or no_openblas.cc
void add_onednn(std::vector<Peer>& peers);    // peer_onednn.cc, or no_onednn.cc
void add_libxsmm(std::vector<Peer>& peers);   // peer_libxsmm.cc, or no_libxsmm.cc

inline std::vector<Peer> all_peers() {
  std::vector<Peer> peers;
  add_openblas(peers);
  add_onednn(peers);
  add_libxsmm(peers);
  return peers;
}

}  // namespace choir::bench
