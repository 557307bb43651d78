// A made-up run directory, sound unless a test spoils it. Defined in test_run_test.cc, so that JSON stays in sources.
#pragma once

#include <cmath>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "tests/files.h"

namespace choir::report {

using tests::contains;
using tests::refusal_of;
using tests::TemporaryDirectory;
using Json = nlohmann::ordered_json;

constexpr int kLayers = 2, kExperts = 8;
constexpr const char* kLinearRouter = "linear > top_k(2) > all > chosen + load(0.02)";

// Noise in [-1, 1] that is the same in every run of a test.
inline double wobble(int step, int salt) { return std::sin(12.9898 * step + 78.233 * salt); }

// A line of metrics.jsonl, step counted from 1, and one of evaluations.jsonl.
Json sound_line(int step);
Json evaluation_line(int step, double loss, double loss_training_rule);

// Writes a run of so many steps; `spoil` changes each line before it is written.
void write_run(const std::string& directory, int steps, const std::function<void(Json&, int)>& spoil = {},
               const std::string& router = kLinearRouter);

}  // namespace choir::report
