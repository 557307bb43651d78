// Chat templates: the part of Jinja that the templates of published models use, rendered as `transformers` renders it.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace choir::text {

// Immutable; threads may share it.
class ChatTemplate {
 public:
  // Parses the template. Throws Error (input) that names `where`, the line, and what is wrong or not supported.
  ChatTemplate(std::string_view source, std::string where);
  ChatTemplate(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // `variables` is an object: messages (array of {role, content, ...}), and as the template wants them tools,
  // add_generation_prompt, bos_token, eos_token and so on; a name that is missing is undefined. Object keys keep their
  // order. Throws Error (input) when the template itself refuses (raise_exception), does what has no meaning (with its
  // line), writes more than 16 MiB or takes more than 10 million steps.
  std::string render(const nlohmann::ordered_json& variables) const;

 private:
  struct Program;
  std::unique_ptr<const Program> program_;
  std::string where_;
};

// What a model directory says about chats.
struct ChatFiles {
  ChatTemplate chat;
  std::string bos_token, eos_token;  // as written in the tokenizer's configuration, or empty; variables of the template
};

// From chat_template.jinja, else chat_template.json, else the chat_template of tokenizer_config.json (a text, or the
// one named "default" of a list). Nothing when the directory has none. Throws Error (input) as above.
std::optional<ChatFiles> load_chat_template(const std::string& directory);

}  // namespace choir::text
