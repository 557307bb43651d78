// One number for each expert of a layer, from what its record tells: the larger, the sooner it stays.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "compress/record.h"

namespace choir::compress {

// Sums and means run over T_j, the tokens that the layer routes to expert j; a_tj is the gain that its rule gives,
// after any division. Formulas and sources: docs/compress.md, C30.
enum class Criterion {
  kRandom,     // by the seed
  kFrequency,  // |T_j|
  kMass,       // sum a_tj
  kEan,        // sum |f_tj|
  kReap,       // mean a_tj |f_tj|
  kMan,        // mean |f_tj|
  kMsan,       // mean |f_tj|^2
  kSeer,       // sum of what the router gave before its rule divides by the chosen; made to be ranked over all layers
  kEasyEp,     // sum a_tj |f_tj| turned_t
};

std::string_view name_of(Criterion criterion);
// "random, frequency, ..."
std::string criterion_names();
// Throws Error (usage) that lists the names.
Criterion parse_criterion(std::string_view name);

// [E]. An expert without tokens has the score 0, the least there is, by all criteria but random. `layer` and `seed`
// matter to random alone. Throws Error (input) naming the layer and an expert whose score is not finite.
std::vector<double> score_experts(const LayerRecord& record, Criterion criterion, int layer, uint64_t seed);

constexpr double kSuper = 10;  // how far beyond the others super experts are, unless told otherwise; our choice

// Super experts: few tokens get answers from them far beyond what the layer's other experts give, and without them a
// model may fall apart. Ascending numbers of those whose largest |f_tj| over T_j exceeds `factor` times the median of
// that among the layer's experts with tokens (C31); none where fewer than three experts have tokens.
std::vector<int> super_experts(const LayerRecord& record, double factor);
// The same of the largest |f_tj| [E] and of the experts' tokens [E].
std::vector<int> super_experts(const std::vector<double>& peak, const std::vector<int64_t>& tokens, double factor);

}  // namespace choir::compress
