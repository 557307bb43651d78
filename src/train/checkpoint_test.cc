#include "train/checkpoint.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "io/safetensors.h"
#include "train/test_run.h"

namespace choir::train {
namespace {

Config tiny_config() { return model::parse_config(nlohmann::json::parse(kTinyModel), "test"); }

// Parameters after a step, so that no block is zero.
void move(Parameters& parameters, const Config& config, uint64_t seed) {
  base::Threads threads(1);
  base::Rng rng(seed);
  parameters.initialize(seed);
  model::visit_tensors(config, parameters.gradients(), [&](const model::TensorInfo&, Matrix<float>& gradient) {
    for (int i = 0; i < gradient.rows * gradient.cols; ++i) gradient.data[i] = rng.normal();
  });
  parameters.update(tiny_run(), {0.01, 1, 1}, threads);
}

bool equal(const Parameters& a, const Parameters& b) {
  return std::ranges::equal(a.values().span(), b.values().span()) &&
         std::ranges::equal(a.moments().first(), b.moments().first()) &&
         std::ranges::equal(a.moments().second(), b.moments().second());
}

TEST_CASE("checkpoint: what is saved comes back") {
  const TemporaryDirectory place;
  const Config config = tiny_config();
  Parameters saved(config), loaded(config);
  move(saved, config, 3);
  base::Rng rng(11);
  rng.next();
  save_checkpoint(place.path(), saved, {42, rng.state()}, "print");
  const Progress progress = load_checkpoint(place.path(), "print", loaded);
  CHECK(progress.step == 42);
  CHECK(progress.data_rng == rng.state());
  CHECK(equal(saved, loaded));
}

TEST_CASE("checkpoint: a later one replaces the earlier, a failed one does not") {
  const TemporaryDirectory place;
  const Config config = tiny_config();
  Parameters parameters(config), loaded(config);
  move(parameters, config, 3);
  save_checkpoint(place.path(), parameters, {1, base::Rng(1).state()}, "print");
  move(parameters, config, 4);
  save_checkpoint(place.path(), parameters, {2, base::Rng(2).state()}, "print");
  CHECK(load_checkpoint(place.path(), "print", loaded).step == 2);
  CHECK(equal(parameters, loaded));

  // What a crash in the middle of writing leaves: half a file beside the whole one.
  const std::string whole = base::read_file(checkpoint_path(place.path()));
  place.write("checkpoint.safetensors.partial.1", whole.substr(0, whole.size() / 2));
  CHECK(load_checkpoint(place.path(), "print", loaded).step == 2);
}

TEST_CASE("checkpoint: damage is refused") {
  const TemporaryDirectory place;
  const Config config = tiny_config();
  Parameters parameters(config);
  move(parameters, config, 3);
  const std::string path = checkpoint_path(place.path());
  const auto refusal = [&] { return refusal_of([&] { load_checkpoint(place.path(), "print", parameters); }); };
  CHECK(contains(refusal(), path));

  save_checkpoint(place.path(), parameters, {1, base::Rng(1).state()}, "other");
  CHECK(contains(refusal(), "another configuration"));
  save_checkpoint(place.path(), parameters, {1, base::Rng(1).state()}, "print");
  CHECK(refusal().empty());

  const std::string whole = base::read_file(path);
  for (const size_t size : {size_t{0}, size_t{5}, size_t{100}, whole.size() - 1}) {
    place.write("checkpoint.safetensors", whole.substr(0, size));
    CHECK(contains(refusal(), path));
  }
}

TEST_CASE("checkpoint: every part must be there and sound") {
  const TemporaryDirectory place;
  const Config config = tiny_config();
  Parameters parameters(config);
  move(parameters, config, 3);
  save_checkpoint(place.path(), parameters, {1, base::Rng(1).state()}, "print");
  const std::string path = checkpoint_path(place.path());
  const TemporaryDirectory copies;
  base::write_file(checkpoint_path(copies.path()), base::read_file(path), base::Existing::kRefuse);
  const io::SafetensorsFile sound(checkpoint_path(copies.path()));
  const auto refuses = [&](const std::vector<io::Tensor>& tensors, const io::Metadata& metadata, const char* named) {
    CAPTURE(named);
    io::write_safetensors(path, tensors, metadata, base::Existing::kReplace);
    CHECK(contains(refusal_of([&] { load_checkpoint(place.path(), "print", parameters); }), named));
  };
  for (size_t i = 0; i < sound.tensors().size(); ++i) {
    std::vector<io::Tensor> tensors = sound.tensors();
    const std::string name = tensors[i].name;
    tensors[i].shape = {tensors[i].shape[0] - 1};
    tensors[i].bytes = tensors[i].bytes.first(tensors[i].bytes.size() - 4);
    refuses(tensors, sound.metadata(), name.c_str());
    tensors[i] = sound.tensors()[i];
    tensors[i].type = tensor::DType::kI32;
    refuses(tensors, sound.metadata(), name.c_str());
    tensors.erase(tensors.begin() + static_cast<ptrdiff_t>(i));
    refuses(tensors, sound.metadata(), name.c_str());
  }
  for (const char* key : {"step", "data_rng", "tokens", "epoch", "next", "fingerprint"}) {
    io::Metadata metadata = sound.metadata();
    metadata.erase(key);
    refuses(sound.tensors(), metadata, key);
  }
  for (const char* step : {"", "x", "-1", "3x", "99999999999"}) {
    io::Metadata metadata = sound.metadata();
    metadata["step"] = step;
    refuses(sound.tensors(), metadata, "step");
  }
  for (const char* key : {"tokens", "epoch"}) {
    io::Metadata metadata = sound.metadata();
    metadata[key] = "9223372036854775807";
    refuses(sound.tensors(), metadata, key);
  }
  for (const std::string& state :
       {std::string(), std::string(63, '1'), std::string(64, 'g'), "  " + std::string(62, '1'), std::string(64, '0')}) {
    io::Metadata metadata = sound.metadata();
    metadata["data_rng"] = state;
    refuses(sound.tensors(), metadata, "random state");
  }
}

}  // namespace
}  // namespace choir::train
