#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/inputs.h"
#include "cli/terminal.h"
#include "io/safetensors.h"
#include "moe/router.h"

namespace choir::cli {
namespace {

using tensor::Buffer;
using tensor::DType;

constexpr int kMostNodes = 4096;  // simulated; a table of nodes and experts is made

const io::Tensor& find(const io::SafetensorsFile& file, const std::string& name, size_t rank) {
  const io::Tensor* tensor = file.find(name);
  if (!tensor) base::input_error("no tensor " + name, file.path(), "name one: FILE:TENSOR");
  if (tensor->shape.size() != rank || tensor->elements() > INT32_MAX)
    base::input_error("tensor " + name + " has " + std::to_string(tensor->shape.size()) + " dimensions", file.path(),
                      "it needs " + std::to_string(rank));
  return *tensor;
}

// A matrix of floats; a vector is one of one row.
struct Numbers {
  int rows = 0, cols = 0;
  std::vector<float> values;

  tensor::Matrix<const float> matrix() const { return {values.data(), rows, cols}; }
};

Numbers read_numbers(const std::string& argument, const char* otherwise) {
  const auto [path, name] = tensor_place(argument, otherwise);
  const io::SafetensorsFile file(path);
  const io::Tensor* any = file.find(name);
  const io::Tensor& tensor = find(file, name, any && any->shape.size() == 1 ? 1 : 2);
  if (tensor.type != DType::kF32 && tensor.type != DType::kBF16 && tensor.type != DType::kF16)
    base::input_error("tensor " + name + " holds " + std::string(tensor::name_of(tensor.type)), path,
                      "numbers are F32, BF16 or F16");
  Numbers result;
  result.rows = tensor.shape.size() == 1 ? 1 : static_cast<int>(tensor.shape[0]);
  result.cols = static_cast<int>(tensor.shape.back());
  std::vector<std::byte> aligned(tensor.bytes.begin(), tensor.bytes.end());
  result.values.resize(tensor.elements());
  tensor::widen({aligned.data(), tensor.type, result.rows, result.cols}, result.values);
  return result;
}

// One number from 0 to `most` for each token.
std::vector<int32_t> read_integers(const std::string& argument, const char* otherwise, int rows, int most) {
  if (argument.empty()) return {};
  const auto [path, name] = tensor_place(argument, otherwise);
  const io::SafetensorsFile file(path);
  const io::Tensor& tensor = find(file, name, 1);
  if (tensor.type != DType::kI64 || tensor.shape[0] != rows)
    base::input_error("tensor " + name + " is not one number a token", path,
                      "it needs I64 [" + std::to_string(rows) + "]");
  std::vector<int32_t> result;
  for (int i = 0; i < rows; ++i) {
    int64_t value;
    std::memcpy(&value, tensor.bytes.data() + sizeof value * static_cast<size_t>(i), sizeof value);
    if (value < 0 || value > most)
      base::input_error("number " + std::to_string(value) + " of token " + std::to_string(i), argument,
                        "tensor " + name + " holds whole numbers from 0 to " + std::to_string(most));
    result.push_back(static_cast<int32_t>(value));
  }
  return result;
}

// The gate's tensors, held against what the router asks for.
std::vector<Numbers> read_gate(const Route& o, const moe::Router& router, int experts, int width) {
  const std::vector<moe::GateTensor> asked = router.tensors(experts, width);
  if (o.gate.size() != asked.size())
    base::usage_error("the router has " + std::to_string(asked.size()) + " tensors, and --gate names " +
                          std::to_string(o.gate.size()),
                      "--gate", asked.empty() ? "leave it out" : "the first is " + asked[0].name);
  std::vector<Numbers> gate;
  for (size_t i = 0; i < asked.size(); ++i) {
    gate.push_back(read_numbers(o.gate[i], "gate"));
    if (gate[i].rows != asked[i].rows || gate[i].cols != asked[i].cols)
      base::input_error(
          "the gate's shape is [" + std::to_string(gate[i].rows) + "," + std::to_string(gate[i].cols) + "]", o.gate[i],
          asked[i].name + " is [" + std::to_string(asked[i].rows) + "," + std::to_string(asked[i].cols) + "] here");
  }
  return gate;
}

int experts_of(const Route& o) {
  if (o.experts > 0) return o.experts;
  if (o.gate.empty()) base::usage_error("how many experts?", "--experts", "give --experts E or --gate F:TENSOR");
  return read_numbers(o.gate[0], "gate").rows;
}

void write_plan(const Route& o, const moe::Routing& routing, int experts) {
  const moe::Plan& plan = routing.plan;
  const auto bytes = [](const auto& list) { return std::as_bytes(std::span(list)); };
  const int64_t edges = plan.edges();
  const std::span<const float> scores(routing.score.data(),
                                      static_cast<size_t>(plan.tokens) * static_cast<size_t>(experts));
  const io::Tensor tensors[] = {{"offset", DType::kI32, {experts + 1}, bytes(plan.offset)},
                                {"token", DType::kI32, {edges}, bytes(plan.token)},
                                {"slot", DType::kI32, {edges}, bytes(plan.slot)},
                                {"weight", DType::kF32, {edges}, bytes(plan.weight)},
                                {"scores", DType::kF32, {plan.tokens, experts}, std::as_bytes(scores)}};
  io::write_safetensors(o.out, tensors, {}, existing(o.force));
}

// Moves the state as steps of a training would: by the training rule, whatever the rule of the routing behind them.
void settle(const moe::Router& router, moe::Context context, int steps, std::span<float> state) {
  context.rule = moe::Rule::kTraining;
  moe::Routing routing;
  for (int step = 0; step < steps; ++step) {
    router.route(context, moe::Balancing::kOff, routing);
    std::vector<float> sums(static_cast<size_t>(router.sums_size(context.experts)));
    router.observe(context, routing, sums);
    router.update(context.experts, sums, state);
  }
}

}  // namespace

void run(const Route& o, const Common& common) {
  base::check_output(o.out, existing(o.force), base::Kind::kFile);
  const moe::Router router = moe::parse_router(o.router);
  const Numbers x = read_numbers(o.x, "x");
  const int experts = experts_of(o);
  moe::check_router(router, experts, x.cols, "--router");
  const std::vector<Numbers> gate = read_gate(o, router, experts, x.cols);
  const std::vector<int32_t> id = read_integers(o.ids, "input_ids", x.rows, INT32_MAX),
                             node = read_integers(o.nodes, "nodes", x.rows, kMostNodes - 1);
  std::vector<tensor::Weight> tensors;
  for (const Numbers& numbers : gate) tensors.emplace_back(numbers.matrix());
  std::vector<float> state(static_cast<size_t>(router.state_size(experts)));
  router.initial_state(experts, state);
  base::Threads threads(common.threads, common.placement());
  const moe::Tokens tokens{.x = x.matrix(),
                           .id = id,
                           .sequence = {},
                           .node = node,
                           .nodes = node.empty() ? 1 : 1 + *std::ranges::max_element(node),
                           .padding = {},
                           .previous = {}};
  const moe::Context context{.tokens = tokens,
                             .experts = experts,
                             .tensors = tensors,
                             .state = state,
                             .shares = {},
                             .rule = o.decode ? moe::Rule::kDecode : moe::Rule::kTraining,
                             .seed = common.seed,
                             .threads = threads};
  settle(router, context, o.settle, state);
  moe::Routing routing;
  router.route(context, moe::Balancing::kOn, routing);
  write_plan(o, routing, experts);
  nlohmann::ordered_json losses = nlohmann::ordered_json::object(), capacity = nlohmann::ordered_json::array();
  for (const auto& [name, loss] : router.losses(context, routing)) losses[name] = losses.value(name, 0.0) + loss;
  for (int e = 0; e < experts && routing.capacity > 0; ++e) capacity.push_back(routing.capacity);
  const auto kept = [](const std::vector<int32_t>& list) {
    return std::ranges::count_if(list, [](int32_t e) { return e >= 0; });
  };
  const nlohmann::ordered_json result{{"expression", router.expression()},
                                      {"capacity", capacity},
                                      {"proposed", kept(routing.proposed)},
                                      {"kept", kept(routing.chosen)},
                                      {"losses", losses}};
  if (common.json) return print_json(result);
  for (const auto& [key, value] : result.items()) fmt::print("{:12} {}\n", key, value.dump());
}

}  // namespace choir::cli
