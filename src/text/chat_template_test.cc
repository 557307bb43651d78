#include "text/chat_template.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"

namespace choir::text {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

std::string render(const std::string& source, const ordered_json& variables = ordered_json::object()) {
  return ChatTemplate(source, "chat").render(variables);
}

std::string message_of(const std::string& source, const ordered_json& variables = ordered_json::object()) {
  try {
    render(source, variables);
  } catch (const base::Error& error) {
    CHECK(error.fault == base::Fault::kInput);
    return error.what();
  }
  return "no error";
}

void write(const fs::path& path, const std::string& text) { std::ofstream(path) << text; }

}  // namespace

// What Jinja2 makes of many more templates is in tests/chat_template_test.py.
TEST_CASE("a conversation, by hand") {
  const std::string source =
      "{{ bos_token }}{% for m in messages %}\n"
      "  {%- if m.role == 'user' %}[{{ m['content'] | trim }}]{% else %} {{ m.content + eos_token }}{% endif -%}\n"
      "{% endfor %}{% if add_generation_prompt %}>{% endif %}";
  const auto variables = ordered_json::parse(R"({"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": true,
    "messages": [{"role": "user", "content": " Hi "}, {"role": "assistant", "content": "Ho"}]})");
  CHECK(render(source, variables) == "<s>[Hi] Ho</s>>");
}

TEST_CASE("keys of objects keep their order") {
  CHECK(render("{{ x | tojson }}", ordered_json::parse(R"({"x": {"b": 1, "a": [true, null, 1.5, "é"]}})")) ==
        R"({"b": 1, "a": [true, null, 1.5, "é"]})");
}

TEST_CASE("errors name the line") {
  CHECK(message_of("a\n{% if %}").find("chat: line 2") != std::string::npos);
  CHECK(message_of("a\n\n{{ x.y.z }}").find("chat: line 3") != std::string::npos);
  CHECK(message_of("{{ 'a\nb' }}\n{{ 1 / 0 }}").find("chat: line 3") != std::string::npos);
  CHECK(message_of("{% macro m() %}\n{{ raise_exception('no tools') }}{% endmacro %}\n{{ m() }}") ==
        "the chat template refuses: no tools: chat: line 2: change the messages");
  CHECK(message_of("{% for x in y %}").find("endfor") != std::string::npos);
  CHECK(message_of("{% import 'x' %}").find("'import' is not supported") != std::string::npos);
  CHECK(message_of("\xff").find("UTF-8") != std::string::npos);
  CHECK(message_of("{{ x }}", ordered_json("no object")).find("mapping") != std::string::npos);
}

TEST_CASE("work, output and nesting are bounded") {
  const std::string loop = "{% for a in range(99999) %}";
  CHECK(message_of(loop + loop + "{% endfor %}{% endfor %}").find("10 million steps") != std::string::npos);
  CHECK(message_of("{% set t = 'x' * 4000000 %}{% for i in range(9) %}{{ t }}{% endfor %}").find("16 MiB") !=
        std::string::npos);
  CHECK(message_of("{{ 'abc' * 99999999 }}").find("16 MiB") != std::string::npos);
  CHECK(message_of("{{ ('a' * 9000000).replace('', 'bbbbbbbb') }}").find("16 MiB") != std::string::npos);
  CHECK(message_of("{{ [0] * 999999999 }}").find("too long") != std::string::npos);
  CHECK(message_of("{{ range(10 ** 9) }}").find("100000") != std::string::npos);
  CHECK(message_of("{{ 10 ** 30 }}").find("too large") != std::string::npos);
  CHECK(message_of("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").find("nested too deeply") != std::string::npos);
  const std::string grow = "{% set n = namespace(x=[1]) %}{% for i in range(999) %}{% set n.x = ";
  CHECK(message_of(grow + "[n.x] %}{% endfor %}").find("nested too deeply") != std::string::npos);
  CHECK(message_of(grow + "[n.x, n.x] %}{% endfor %}").find("too large") != std::string::npos);
  for (const char* piece : {"(", "[", "{% if x %}", "not ", "-", "x.", "x|f(", "1+"}) {
    std::string deep = piece[0] == '{' ? "" : "{{ ";
    for (int i = 0; i < 20000; ++i) deep += piece;
    CAPTURE(piece);
    CHECK(message_of(deep) != "no error");
  }
}

TEST_CASE("a namespace and a macro may hold each other") {
  CHECK(
      render(
          "{% set n = namespace() %}{% macro m() %}{{ n.x }}{% endmacro %}{% set n.m = m %}{% set n.n = n %}{% set n.x "
          "= 3 %}{{ n.m() }}") == "3");
}

TEST_CASE("threads may share one") {
  const ChatTemplate chat("{% for i in range(n) %}{{ i }}{% endfor %}", "chat");
  std::vector<std::string> texts(4);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < texts.size(); ++t)
    threads.emplace_back([&, t] { texts[t] = chat.render({{"n", static_cast<int>(t) + 1}}); });
  for (auto& thread : threads) thread.join();
  CHECK(texts == std::vector<std::string>{"0", "01", "012", "0123"});
}

TEST_CASE("where a model directory keeps its template") {
  const fs::path directory = fs::temp_directory_path() / "choir_chat_template_test";
  fs::remove_all(directory);
  fs::create_directories(directory);
  CHECK_FALSE(load_chat_template(directory.string()).has_value());
  const fs::path config = directory / "tokenizer_config.json";
  write(config, R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": "{{ bos_token }}one"})");
  const auto one = load_chat_template(directory.string());
  REQUIRE(one.has_value());
  CHECK(one->bos_token == "<s>");
  CHECK(one->eos_token == "</s>");
  CHECK(one->chat.render({{"bos_token", one->bos_token}}) == "<s>one");
  write(config, R"({"chat_template": [{"name": "rag", "template": "x"}, {"name": "default", "template": "two"}]})");
  CHECK(load_chat_template(directory.string())->chat.render(ordered_json::object()) == "two");
  write(config, R"({"chat_template": 5})");
  CHECK_THROWS_AS(load_chat_template(directory.string()), base::Error);
  write(directory / "chat_template.json", R"({"chat_template": "three"})");
  CHECK(load_chat_template(directory.string())->chat.render(ordered_json::object()) == "three");
  write(directory / "chat_template.jinja", "four\n");
  CHECK(load_chat_template(directory.string())->chat.render(ordered_json::object()) == "four");
  fs::remove_all(directory);
}

}  // namespace choir::text
