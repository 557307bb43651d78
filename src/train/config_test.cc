#include "train/config.h"

#include <doctest/doctest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "train/test_run.h"

namespace choir::train {
namespace {

using Json = nlohmann::json;

Json sound_config() {
  return {{"model", Json::parse(kTinyModel)},
          {"tokenizer", {{"vocab_size", 300}}},
          {"data",
           {{{"name", "prose"}, {"weight", 0.5}, {"files", {"a.jsonl", "b.txt"}}},
            {{"name", "code"}, {"files", {"c.txt"}}}}},
          {"training", {{"steps", 10}, {"learning_rate", 0.002}, {"warmup_steps", 4}}}};
}

TrainConfig read(const Json& json) {
  const TemporaryDirectory place;
  place.write("train.json", json.dump());
  return read_train_config(place.file("train.json"));
}

TEST_CASE("schedule: a line up, half a cosine down") {
  const Schedule s{.steps = 110, .warmup_steps = 10, .learning_rate = 1, .min_learning_rate = 0.2};
  CHECK(s.at(1) == doctest::Approx(0.1));
  CHECK(s.at(5) == doctest::Approx(0.5));
  CHECK(s.at(10) == doctest::Approx(1));
  CHECK(s.at(35) == doctest::Approx(0.2 + 0.8 * (2 + std::sqrt(2.0)) / 4));  // cos(pi / 4)
  CHECK(s.at(60) == doctest::Approx(0.6));
  CHECK(s.at(110) == doctest::Approx(0.2));
  CHECK(s.at(1000) == doctest::Approx(0.2));
  for (int step = 11; step <= 110; ++step) CHECK(s.at(step) < s.at(step - 1));
}

TEST_CASE("schedule: without warm-up, and with nothing else") {
  const Schedule none{.steps = 4, .warmup_steps = 0, .learning_rate = 2, .min_learning_rate = 0};
  CHECK(none.at(1) == doctest::Approx(1 + std::sqrt(0.5)));
  CHECK(none.at(2) == doctest::Approx(1));
  CHECK(none.at(4) == 0);
  const Schedule only{.steps = 4, .warmup_steps = 8, .learning_rate = 2, .min_learning_rate = 0};
  CHECK(only.at(4) == doctest::Approx(1));
}

TEST_CASE("train config: what the file says, and what it leaves open") {
  const TrainConfig config = read(sound_config());
  CHECK(Json::parse(config.model) == sound_config()["model"]);
  CHECK(config.tokenizer.path.empty());
  CHECK(config.tokenizer.vocab_size == 300);
  REQUIRE(config.domains.size() == 2);
  CHECK(config.domains[0].name == "prose");
  CHECK(config.domains[0].weight == 0.5);
  CHECK(config.domains[0].files == std::vector<std::string>{"a.jsonl", "b.txt"});
  CHECK(config.domains[1].weight == 1);
  CHECK(config.schedule.steps == 10);
  CHECK(config.schedule.warmup_steps == 4);
  CHECK(config.schedule.learning_rate == 0.002);
  CHECK(config.schedule.min_learning_rate == 0);
  CHECK(config.batch_size == TrainConfig().batch_size);
  CHECK(config.saved_type == tensor::DType::kBF16);
  CHECK(config.sums == kernels::Sums::kPacked);
}

TEST_CASE("train config: a tokenizer of its own, another type") {
  Json json = sound_config();
  json["tokenizer"] = {{"path", "t.json"}};
  json["dtype"] = "float16";
  json["precision"] = "bfloat16";
  const TrainConfig config = read(json);
  CHECK(config.tokenizer.path == "t.json");
  CHECK(config.saved_type == tensor::DType::kF16);
  CHECK(config.sums == kernels::Sums::kRounded);
}

TEST_CASE("train config: evaluations and nodes") {
  Json json = sound_config();
  json["evaluation"] = {{"every", 50}, {"tokens", 4096}, {"files", {{"code", "held.txt"}}}};
  json["nodes"] = 4;
  json["pin"] = "domain";
  const TrainConfig config = read(json);
  CHECK(config.evaluation.every == 50);
  CHECK(config.evaluation.tokens == 4096);
  CHECK(config.evaluation.files == std::map<std::string, std::string>{{"code", "held.txt"}});
  CHECK(config.placement.nodes == 4);
  CHECK(config.placement.pin == Placement::Pin::kDomain);
  json["from"] = "../base";
  json["upcycle_noise"] = 0.05;
  json["freeze"] = {"*.gate.weight"};
  json["moments"] = "bfloat16";
  const TrainConfig more = read(json);
  CHECK(more.from == "../base");
  CHECK(more.upcycle_noise == 0.05);
  CHECK(more.freeze == std::vector<std::string>{"*.gate.weight"});
  CHECK(more.moments == tensor::DType::kBF16);
  json["recompute"] = "block";
  CHECK(read(json).recompute == model::Recompute::kBlock);
  const TrainConfig plain = read(sound_config());
  CHECK(plain.moments == tensor::DType::kF32);
  CHECK(plain.recompute == model::Recompute::kNone);
  CHECK(plain.evaluation.every == 0);
  CHECK(plain.placement.nodes == 1);
}

TEST_CASE("train config: a teacher, and a model that is another one's") {
  CHECK(read(sound_config()).distillation.teacher.empty());
  Json json = sound_config();
  json["teacher"] = "full";
  CHECK(read(json).distillation.weight == 1);
  CHECK(read(json).distillation.temperature == 1);
  json["distill"] = {{"weight", 0.25}, {"temperature", 2.5}};
  json["from"] = "small";
  json.erase("model");
  json.erase("tokenizer");
  const TrainConfig config = read(json);
  CHECK(config.distillation.teacher == "full");
  CHECK(config.distillation.weight == 0.25);
  CHECK(config.distillation.temperature == 2.5);
  CHECK(config.model.empty());
  CHECK(config.tokenizer.path == "small/tokenizer.json");
  json.erase("from");
  CHECK(contains(refusal_of([&] { read(json); }), "model"));
}

TEST_CASE("train config: a key that nobody knows is a typo") {
  for (const char* pointer :
       {"/evalution", "/tokenizer/size", "/data/1/wieght", "/training/step", "/evaluation/evry"}) {
    Json json = sound_config();
    json["evaluation"] = {{"every", 50}};
    json[Json::json_pointer(pointer)] = 1;
    const std::string key = std::string(pointer).substr(std::string(pointer).rfind('/') + 1);
    CHECK(contains(refusal_of([&] { read(json); }), "unknown key \"" + key + "\""));
  }
  Json json = sound_config();
  json["batch_size"] = 4;
  CHECK(contains(refusal_of([&] { read(json); }), "it belongs under training"));
}

TEST_CASE("train config: every refusal names its field") {
  const auto refuses = [](const char* pointer, const Json& value, const char* named) {
    Json json = sound_config();
    json[Json::json_pointer(pointer)] = value;
    CAPTURE(pointer);
    CAPTURE(value.dump());
    const std::string refusal = refusal_of([&] { read(json); });
    CHECK(contains(refusal, named));
    CHECK(contains(refusal, "train.json"));
  };
  for (const char* key : {"model", "tokenizer", "training"})
    for (const Json& value : {Json(nullptr), Json(3), Json("text"), Json::array()})
      refuses((std::string("/") + key).c_str(), value, key);
  for (const Json& value : {Json(nullptr), Json(3), Json::object(), Json::array()}) refuses("/data", value, "data");
  refuses("/data/1", 5, "data[1]");
  refuses("/data/1/name", nullptr, "name");
  refuses("/data/1/name", "prose", "two domains \"prose\"");
  refuses("/training/accumulate", 65537, "accumulate");
  refuses("/training/batch_size", (1 << 14) + 1, "batch_size times sequence_length");  // sequences of 256
  refuses("/data/1/weight", 0, "weight");
  refuses("/data/1/files", "c.txt", "data[1]");
  refuses("/data/1/files", Json::array(), "data[1]");
  refuses("/data/1/files/0", 5, "data[1].files");
  refuses("/tokenizer/vocab_size", 256, "vocab_size");
  refuses("/tokenizer/path", 5, "path");
  refuses("/dtype", "int8", "dtype");
  refuses("/evaluation", 5, "evaluation");
  refuses("/evaluation", Json::object(), "every");
  refuses("/evaluation", {{"every", 5}, {"files", {{"verse", "a.txt"}}}}, "verse");
  refuses("/nodes", 0, "nodes");
  refuses("/pin", "rack", "pin");
  refuses("/task", "rl", "task");
  refuses("/tensorboard", 1, "tensorboard");
  refuses("/moments", "float16", "moments");
  refuses("/recompute", "layer", "recompute");
  refuses("/precision", "float16", "precision");
  refuses("/freeze", "*", "freeze");
  refuses("/freeze", {1}, "freeze");
  refuses("/from", 1, "from");
  refuses("/upcycle_noise", -1, "upcycle_noise");
  refuses("/teacher", 1, "teacher");
  refuses("/distill", Json::object(), "distill without a teacher");
  for (const Json& value : {Json(5), Json{{"weight", 1.5}}, Json{{"weight", -0.1}}, Json{{"temperature", 0}},
                            Json{{"temperature", 200}}, Json{{"heat", 2}}}) {
    Json json = sound_config();
    json["teacher"] = "full";
    json["distill"] = value;
    CAPTURE(value.dump());
    CHECK(contains(refusal_of([&] { read(json); }), value.is_object() ? value.begin().key() : "distill"));
  }
  for (const char* key : {"steps", "learning_rate"}) refuses((std::string("/training/") + key).c_str(), nullptr, key);
  for (const char* key : {"steps", "batch_size", "sequence_length", "checkpoint_every"})
    for (const Json& value : {Json(0), Json(-1), Json(2.5), Json("2"), Json(int64_t{1} << 40)})
      refuses((std::string("/training/") + key).c_str(), value, key);
  for (const char* key :
       {"warmup_steps", "learning_rate", "min_learning_rate", "beta1", "beta2", "weight_decay", "seed"})
    for (const Json& value : {Json(-1), Json("1"), Json(1e300)})
      refuses((std::string("/training/") + key).c_str(), value, key);
  for (const char* key : {"epsilon", "gradient_clip"}) refuses((std::string("/training/") + key).c_str(), 0, key);
  for (const char* key : {"beta1", "beta2"}) refuses((std::string("/training/") + key).c_str(), 1, key);
}

}  // namespace
}  // namespace choir::train
