# Writes the files of a page into a source, as string constants.
#   cmake -DOUT=FILE.cc -DFROM=DIRECTORY -P embed.cmake
set(source "// Made by tools/embed.cmake.\n#include \"report/template.h\"\n\nnamespace choir::report {\n\n")
function(add name)  # FILE...
  set(text "")
  foreach(file ${ARGN})
    file(READ "${FROM}/${file}" part)
    string(APPEND text "${part}")
  endforeach()
  string(FIND "${text}" ")~page~" end_inside)
  if(NOT end_inside EQUAL -1)
    message(FATAL_ERROR "${ARGN}: holds the mark that ends a string")
  endif()
  set(source "${source}const std::string_view ${name} = R\"~page~(${text})~page~\";\n" PARENT_SCOPE)
endfunction()
add(kPageHtml page.html)
add(kPageCss page.css)
add(kPageJs draw.js charts.js page.js)
file(WRITE "${OUT}" "${source}\n}  // namespace choir::report\n")
