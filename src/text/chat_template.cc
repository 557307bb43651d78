#include "text/chat_template.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/atomic_output.h"
#include "base/error.h"
#include "io/json.h"
#include "text/template_run.h"

namespace choir::text {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// A special token is a text, or an object that holds one as its content.
std::string token_in(const json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end()) return {};
  if (found->is_string()) return found->get<std::string>();
  return found->is_object() && found->contains("content") && (*found)["content"].is_string()
             ? (*found)["content"].get<std::string>()
             : std::string();
}

// A text, or a list of named ones of which "default" counts.
std::optional<std::string> template_in(const json& config, const std::string& where) {
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  if (found->is_array())
    for (const json& each : *found)
      if (each.is_object() && each.contains("name") && each["name"] == "default")
        return io::Fields(each, where + ": chat_template").get_string("template");
  base::input_error("neither a text nor a list with a template named default", where + ": chat_template",
                    "see docs/formats.md");
}

json object_in(const fs::path& path) {
  json config = io::read_json(path.string());
  if (!config.is_object()) base::input_error("not an object", path.string(), "see docs/formats.md");
  return config;
}

}  // namespace

struct ChatTemplate::Program {
  jinja::Block statements;
};

ChatTemplate::ChatTemplate(std::string_view source, std::string where)
    : program_(std::make_unique<const Program>(Program{jinja::parse_template(source, where)})),
      where_(std::move(where)) {}

ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

std::string ChatTemplate::render(const nlohmann::ordered_json& variables) const {
  int line = 0;
  try {
    const jinja::Value names = jinja::Value::from_json(variables);
    jinja::Runner runner(names.as_dict());
    try {
      return runner.run(program_->statements);
    } catch (const jinja::Fault&) {
      line = runner.line();
      throw;
    }
  } catch (const jinja::Fault& fault) {
    const std::string where = line > 0 ? where_ + ": line " + std::to_string(line) : where_;
    if (fault.refusal) base::input_error("the chat template refuses: " + fault.what, where, "change the messages");
    base::input_error("the chat template fails: " + fault.what, where, "change the messages, or the template");
  }
}

std::optional<ChatFiles> load_chat_template(const std::string& directory) {
  const fs::path config_path = fs::path(directory) / "tokenizer_config.json";
  const json config = fs::exists(config_path) ? object_in(config_path) : json::object();
  std::string where = (fs::path(directory) / "chat_template.jinja").string();
  std::optional<std::string> source;
  if (fs::exists(where)) {
    source = base::read_file(where);
  } else if (where = (fs::path(directory) / "chat_template.json").string(); fs::exists(where)) {
    source = template_in(object_in(where), where);
  } else {
    where = config_path.string();
    source = template_in(config, where);
  }
  if (!source) return std::nullopt;
  return ChatFiles{ChatTemplate(*source, where), token_in(config, "bos_token"), token_in(config, "eos_token")};
}

}  // namespace choir::text
