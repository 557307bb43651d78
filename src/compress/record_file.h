// One layer's record as a safetensors file.
#pragma once

#include <string>

#include "compress/record.h"
#include "io/safetensors.h"

namespace choir::compress {

// What a file must agree with to be read: the sizes, and every entry of the identity (model, text, layer, router).
struct RecordFrame {
  moe::SubsetRule rule;
  int experts = 0, ranks = 0, width = 0;
  std::vector<int32_t> batch;  // [S+1] as LayerRecord::batch
  io::Metadata identity;
};

// False when a number of the record is a NaN or an infinity; such a record would be refused when it is read.
bool all_finite(const LayerRecord& record);

// Appears whole or not at all, and replaces what is there. The rule and the batches are not written: they are the
// frame's. Throws Error (input) when the disk refuses.
void write_record(const std::string& path, const LayerRecord& record, const io::Metadata& identity);

// Throws Error (input) naming file and tensor for a file that is damaged, lacks a tensor or has one too many, has
// other sizes or another identity, or holds numbers that no record has: a NaN, an expert twice in a ranking, more
// tokens than there are. A hash over all tensors is written and compared, so a changed byte does not pass.
LayerRecord read_record(const std::string& path, const RecordFrame& frame);

}  // namespace choir::compress
