// How a weight lies in a file where safetensors have no word for it: in blocks, in panels or both (docs/formats.md,
// "A packed directory"). The file has its bytes as U8, and says in its metadata under the tensor's name what they are.
#pragma once

#include <optional>
#include <string>

#include "io/safetensors.h"
#include "tensor/view.h"

namespace choir::model {

// "Q8_0 panels [3584,1024]", or "Q8_0 rows [...]". The data is not looked at.
std::string description_of(const tensor::Weight& weight);

// The weight of so many rows and columns, without data, that `text` describes; none where it describes another.
std::optional<tensor::Weight> described(const std::string& text, int rows, int cols);

// What it takes in the file. Panels fill whole lines of 64 bytes, so that each weight begins at one.
size_t bytes_in_file(const tensor::Weight& weight);

// Of a file with such weights: a format by which other programs refuse it, and the version of the panels.
io::Metadata packed_metadata();

// Why nothing can be read by the descriptions of a file with this metadata; empty: it can.
std::string reason_against(const io::Metadata& metadata);

}  // namespace choir::model
