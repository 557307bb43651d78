// Captures of one model on several texts, put together.
#pragma once

#include "compress/capture_directory.h"

namespace choir::compress {

// Appends the tokens of `more`, a record of the same layer with the same ranks; means and coverage become those of all
// tokens together (C36).
void append_record(LayerRecord& record, const LayerRecord& more);

// Writes the captures one behind the other as a new one at `to`; a merge that was stopped goes on. Memory holds
// one layer. Throws Error (input) for captures that are incomplete, of different models or with different ranks, or of
// which two saw the same text; Error (usage) for none, and as CaptureDirectory::begin does.
CaptureDirectory merge_captures(const std::vector<std::string>& from, const std::string& to);

}  // namespace choir::compress
