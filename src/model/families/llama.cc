// Llama (transformers, models/llama).
#include "model/families/reader.h"

namespace choir::model {
namespace {

void read(Reader& reader) {
  reader.size(1e-6);
  reader.attention({});
  Config& config = reader.config();
  config.qkv_bias = config.o_bias = reader.fields().get_bool("attention_bias", false);
  reader.refuse_flag("mlp_bias");
  reader.rope(1e4);
  reader.dense_layers(reader.count("intermediate_size"));
}

}  // namespace

const Family kLlama{"llama", {}, {}, read};

}  // namespace choir::model
