// Runs beside one another as one page of HTML that needs nothing else.
#pragma once

#include <string>
#include <vector>

#include "report/run.h"

namespace choir::report {

// What the page shows, as JSON: curves of at most 2000 points, tables of bounded size, whatever the length of the runs.
std::string page_data(const std::vector<Run>& runs);

// The whole page. Nothing in it comes from the runs but this JSON, in which no "<" stands.
std::string page(const std::vector<Run>& runs);

}  // namespace choir::report
