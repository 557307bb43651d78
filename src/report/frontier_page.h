// A frontier, what is lost against what is saved, as one page of HTML that needs nothing else.
#pragma once

#include <string>
#include <vector>

namespace choir::report {

struct FrontierPoint {
  double x = 0, y = 0;  // finite
  std::string label;    // shown when it is pointed at
  bool knee = false;
};

struct FrontierLine {
  std::string name;
  int colour = 0;                     // from 0 on; equal names of several charts have equal ones
  std::vector<FrontierPoint> points;  // in the order in which the line runs
};

struct FrontierChart {
  std::string title, x_name, y_name;
  std::vector<FrontierLine> lines;
  bool scattered = false;  // points alone: x is measured, and an order along it says nothing
};

struct FrontierPage {
  std::string title;
  std::vector<std::string> notes;
  std::vector<FrontierChart> charts;
  std::vector<std::string> columns;            // of the table
  std::vector<std::vector<std::string>> rows;  // a cell for each column
  std::vector<size_t> marked;                  // rows that stand out
};

// The whole page: charts are SVG, drawn here, so that it has no script. All texts are escaped.
std::string frontier_page(const FrontierPage& page);

}  // namespace choir::report
