// What stands between a verb and the terminal.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace choir::cli {

// One JSON object and a newline on stdout.
void print_json(const nlohmann::ordered_json& json);

// A line on stderr that the next one overwrites; nothing where stderr is no terminal.
class ProgressLine {
 public:
  ~ProgressLine();
  void show(const std::string& text);

 private:
  bool shown_ = false;
};

bool stderr_is_terminal();

// From now on SIGINT and SIGTERM end the program with one line and exit status 4, until interrupted() is first asked.
void exit_when_interrupted();

// From the first call on, SIGINT and SIGTERM only set a flag: long verbs ask, save what they have, and end.
bool interrupted();

}  // namespace choir::cli
