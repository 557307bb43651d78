// What the parsers of all families have in common: keys with ranges, defaults that are said, the parts of a block.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "io/json.h"
#include "model/config.h"
#include "model/families/family.h"

namespace choir::model {

// Beyond what sound models have; all parameters of the largest can still be counted in 64 bits.
inline constexpr int64_t kMost = 1 << 18;  // of any width or count
inline constexpr int kMostExperts = 4096;

// Reads one config.json into `config`. Everything throws Error (input) that names the field. A family calls size first,
// then attention or latent_attention, then layers, then the rest.
class Reader {
 public:
  // `json` must outlive it.
  Reader(const io::Json& json, const std::string& where, const Family& family, Config& config);

  Config& config() { return config_; }
  const io::Fields& fields() const { return fields_; }
  // Whether the file holds the key, be it null: some keys mean something by that.
  bool says(const char* key) const;

  // A whole number from 1 on. Where the key is missing the fallback, which is then said.
  int count(const char* key) const;
  int count(const char* key, int64_t fallback, int64_t least = 1);
  double number(const char* key, double most, double fallback);
  double multiplier(const char* key);  // a positive number, 1 where it is missing
  bool flag(const char* key, bool fallback);
  std::vector<int64_t> list(const char* key) const;  // whole numbers from 0 on; empty where it is missing
  void require(bool condition, const std::string& what) const;
  // A key that must not be true: what it asks for is not made here.
  void refuse_flag(const char* key) const;

  // Width, vocabulary, positions, norm, head.
  void size(double epsilon);

  struct Heads {
    int kv_heads = 0;    // where the key is missing; 0: as many as heads
    int head_width = 0;  // likewise; 0: width / heads
  };
  void attention(const Heads& heads);
  void latent_attention(int query_rank);
  // After the attention. No theta: the key must be there.
  void rope(std::optional<double> theta);

  struct Experts {
    int experts, top_k, width;  // where a key is missing; 0: it must be there
    std::vector<bool> dense{};  // of each layer; empty: none is
    int dense_width = 0;        // of intermediate_size, where it is missing and some are
  };
  int depth() const;
  // All layers dense.
  void dense_layers(int width);
  // Layers with experts: numbers for all, or for each under "choir".
  void layers(const Experts& experts);
  void share(int width, bool gate);  // in every layer with experts
  // n_shared_experts of the width of the others.
  void share_experts(int width, int shared);

  // After the layers. A window of `size` tokens in the layers that layer_types names; where the file has no such list,
  // in those of `sliding`, or in all where that is empty. 0: there is none.
  void window(int size, const std::vector<bool>& sliding = {});
  int window_size(int least) const;  // sliding_window; 0 where it is null or missing
  void balance(const char* key, double fallback);

 private:
  template <class T>
  void say(const char* key, T fallback);
  struct PerLayer {
    const char *key, *other;
    int fallback;
  };
  std::vector<int> per_layer(const PerLayer& asked, const std::vector<bool>& dense);
  std::vector<bool> layer_types() const;

  const io::Json& json_;
  io::Fields fields_;
  std::string where_;
  const Family& family_;
  Config& config_;
};

}  // namespace choir::model
