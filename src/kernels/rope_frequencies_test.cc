// The numbers of gpt-oss, DeepSeek-V2 and Llama 3.1 come from their published formulas in another language, in double.
#include "kernels/rope_frequencies.h"

#include <doctest/doctest.h>

#include <cmath>
#include <utility>

namespace choir::kernels {
namespace {

using Kind = RopeSpec::Kind;

void check_pairs(const RopeFrequencies& f, std::initializer_list<std::pair<size_t, double>> expected) {
  for (const auto& [i, inverse] : expected) {
    CAPTURE(i);
    CHECK(f.inverse[i] == doctest::Approx(inverse).epsilon(1e-9));
  }
}

const RopeSpec kGptOss{.theta = 150000, .kind = Kind::kYarn, .factor = 32, .original_length = 4096, .truncate = false};
const RopeSpec kDeepSeek{.theta = 10000,
                         .kind = Kind::kYarn,
                         .factor = 40,
                         .original_length = 4096,
                         .mscale = 0.707,
                         .mscale_all_dim = 0.707};

TEST_CASE("rope frequencies: plain and linear") {
  const RopeFrequencies plain = rope_frequencies({.theta = 1e6}, 8, 1);
  CHECK(plain.inverse.size() == 4);
  CHECK(plain.factor == 1);
  check_pairs(plain, {{0, 1}, {1, std::pow(1e6, -0.25)}, {2, 1e-3}, {3, std::pow(1e6, -0.75)}});
  const RopeFrequencies slow = rope_frequencies({.theta = 1e6, .kind = Kind::kLinear, .factor = 4}, 8, 1);
  CHECK(slow.factor == 1);
  for (size_t i = 0; i < 4; ++i) CHECK(slow.inverse[i] == plain.inverse[i] / 4);
}

TEST_CASE("rope frequencies: yarn with bounds that are no whole pairs, as gpt-oss has it") {
  const RopeFrequencies f = rope_frequencies(kGptOss, 64, 1);
  check_pairs(f, {{0, 1},
                  {8, 0.05081327481546147},
                  {9, 0.03170569618466377},
                  {12, 0.006794959489732219},
                  {17, 0.0001293187012450632},
                  {18, 3.830881237375338e-05},
                  {31, 3.023511428119214e-07}});
  CHECK(f.factor == doctest::Approx(1.3465735902799727));
  CHECK(f.factor * f.factor == doctest::Approx(1.81325).epsilon(1e-5));
}

TEST_CASE("rope frequencies: yarn with whole pairs and two mscales, as DeepSeek-V2 has it") {
  const RopeFrequencies f = rope_frequencies(kDeepSeek, 64, 1);
  check_pairs(f, {{10, 0.0562341325190349},
                  {11, 0.03900692656714386},
                  {16, 0.0055},
                  {22, 0.0001778279410038922},
                  {23, 3.33380358040831e-05},
                  {31, 3.33380358040831e-06}});
  CHECK(f.factor == 1);
  RopeSpec spec = kDeepSeek;
  spec.mscale = 1;
  CHECK(rope_frequencies(spec, 64, 1).factor == doctest::Approx(1.3688879454113936 / 1.2608037774058552));
  spec.mscale_all_dim = 0;
  CHECK(rope_frequencies(spec, 64, 1).factor == doctest::Approx(1.3688879454113936));
  spec.attention_factor = 1.5;
  CHECK(rope_frequencies(spec, 64, 1).factor == 1.5);
}

TEST_CASE("rope frequencies: yarn where both bounds leave the head, and where they meet") {
  const RopeSpec short_text{.theta = 10000, .kind = Kind::kYarn, .factor = 4, .original_length = 32};
  check_pairs(rope_frequencies(short_text, 16, 1),
              {{0, 1}, {1, 0.1976423537605237}, {2, 0.025}, {3, 0.007905694150420948}, {7, 7.905694150420948e-05}});
  RopeSpec meeting = short_text;
  meeting.beta_fast = meeting.beta_slow = 6;  // no pair turns so often: both are 0
  check_pairs(rope_frequencies(meeting, 16, 1), {{0, 1}, {1, std::pow(10000, -0.125) / 4}});
}

TEST_CASE("rope frequencies: the growth of the scores, squared in DeepSeek's softmax") {
  CHECK(yarn_growth(40, 0.707) == doctest::Approx(1.2608).epsilon(1e-4));
  CHECK(std::pow(yarn_growth(40, 0.707), 2) == doctest::Approx(1.5896).epsilon(1e-4));
  CHECK(std::pow(yarn_growth(40, 1), 2) == doctest::Approx(1.8739).epsilon(1e-4));
  CHECK(yarn_growth(1, 1) == 1);
  CHECK(yarn_growth(0.5, 1) == 1);
}

TEST_CASE("rope frequencies: longrope takes the long list above the original length") {
  RopeSpec spec{.theta = 10000,
                .kind = Kind::kLongrope,
                .original_length = 4096,
                .short_factor = {1, 1.5, 2, 2.5},
                .long_factor = {1, 4, 16, 64},
                .short_mscale = 1.1,
                .long_mscale = 1.3};
  const RopeFrequencies within = rope_frequencies(spec, 8, 4096), beyond = rope_frequencies(spec, 8, 4097);
  check_pairs(within, {{0, 1}, {1, 0.1 / 1.5}, {2, 0.01 / 2}, {3, 0.001 / 2.5}});
  check_pairs(beyond, {{0, 1}, {1, 0.1 / 4}, {2, 0.01 / 16}, {3, 0.001 / 64}});
  CHECK(within.factor == 1.1);
  CHECK(beyond.factor == 1.3);
  spec.short_mscale = spec.long_mscale = 0;
  CHECK(rope_frequencies(spec, 8, 1).factor == 1);
  spec.factor = 32;
  CHECK(rope_frequencies(spec, 8, 1).factor == doctest::Approx(1.1902380714238083));
  spec.attention_factor = 1.4;
  CHECK(rope_frequencies(spec, 8, 1).factor == 1.4);
  spec.short_factor.pop_back();
  CHECK_THROWS(rope_frequencies(spec, 8, 1));
}

TEST_CASE("rope frequencies: Llama 3.1 ramps over the number of turns") {
  const RopeSpec spec{.theta = 500000,
                      .kind = Kind::kLlama3,
                      .factor = 8,
                      .original_length = 8192,
                      .low_freq_factor = 1,
                      .high_freq_factor = 4};
  const RopeFrequencies f = rope_frequencies(spec, 128, 1);
  CHECK(f.factor == 1);
  check_pairs(f, {{0, 1},
                  {28, 0.003211445994752591},
                  {29, 0.002166570763503359},
                  {32, 0.0005248461609929547},
                  {34, 0.0001785078127679964},
                  {35, 9.556212353964683e-05},
                  {63, 3.068925988914511e-07}});
}

TEST_CASE("rope frequencies: only whole pairs turn") {
  CHECK_THROWS(rope_frequencies({}, 7, 1));
  CHECK_THROWS(rope_frequencies({}, 0, 1));
}

}  // namespace
}  // namespace choir::kernels
