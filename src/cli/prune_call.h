// What a call of prune asks for, checked before any calibration.
#pragma once

#include "cli/options.h"
#include "compress/choose_sets.h"
#include "compress/prune.h"
#include "compress/repair.h"

namespace choir::cli {

// Throws Error (usage) for options that do not go together, and for outputs that are in the way.
void check_call(const Prune& options);

// How many experts each layer keeps, from --keep; all without it. A share is rounded to the nearest count, of two
// equally near ones to the larger. Throws Error (usage) naming the layer where the count does not suit its router, and
// for shares that would prune nothing. The model must be observable.
std::vector<int> counts_to_keep(const std::vector<std::string>& keep, const model::Model& model);

// Whether --keep has shares, whose counts a user should see.
bool has_shares(const std::vector<std::string>& keep);

// From --keep-total or --budget: what the experts may have. Throws Error (usage) when it is too small for the least
// that every layer needs.
compress::Budget budget_of(const Prune& options, const model::Model& model);

// Bytes of 6GB, 500 MiB, 1.5e9. Throws Error (usage) naming the option.
int64_t parse_size(const std::string& text, const std::string& option);

// Whether the published search is asked for: the pair table where it fits and nothing is asked that it does not know,
// or a progressive one.
bool is_published(const Prune& options, const model::Config& config);

// What the published search is given. Throws Error (usage, input) as compress::check_prune does.
compress::PruneOptions published_options(const Prune& options, const Common& common, const model::Config& config,
                                         const std::vector<int>& counts);

// Which repairs are tried. Throws Error (usage) for an unknown name.
compress::RepairOptions repair_options(const Prune& options);

// Method and objective for a record. Throws Error (usage) for unknown names and what does not go together.
compress::SetOptions set_options(const Prune& options, const Common& common, const model::Config& config);

// "6 4 6 8 of 8 8 8 8 experts"
std::string told(const std::vector<int>& counts, const model::Config& config);

}  // namespace choir::cli
