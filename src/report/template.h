// The parts of the page, out of src/report/page/, as tools/embed.cmake puts them into the program.
#pragma once

#include <string_view>

namespace choir::report {

extern const std::string_view kPageHtml;  // with {{css}}, {{js}} and {{data}} where the other parts go
extern const std::string_view kPageCss;
extern const std::string_view kPageJs;

}  // namespace choir::report
