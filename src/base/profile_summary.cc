#include "base/profile_summary.h"

#include <algorithm>

namespace choir::base {
namespace {

// The one of that name, at the end where it is new.
template <class Total>
size_t place_of(const std::string& name, std::vector<Total>& totals) {
  const auto found = std::ranges::find(totals, name, &Total::name);
  if (found != totals.end()) return static_cast<size_t>(found - totals.begin());
  totals.emplace_back().name = name;
  return totals.size() - 1;
}

// What a span is part of. Parents come before their children.
struct Place {
  int phase = -1, total = -1;  // an operator's total, or that of none
  std::string path;            // of the scopes around what is inside it, each with a "/"
};

class Summary {
 public:
  Summary(const Profile& profile, bool warm)
      : profile_(profile), tick_(profile.seconds_per_tick()), places_(profile.spans().size()) {
    if (warm) find_first();
  }

  std::vector<PhaseTotal> phases() {
    for (size_t i = 0; i < places_.size(); ++i) add(profile_.spans()[i], places_[i]);
    for (int t = 0; t < profile_.threads(); ++t)
      for (const Profile::Busy& busy : profile_.busy(t))
        if (OperatorTotal* total = busy.span < 0 ? nullptr : total_of(places_[static_cast<size_t>(busy.span)]))
          total->busy += tick_ * static_cast<double>(busy.end - busy.begin);
    return std::move(phases_);
  }

 private:
  double seconds_of(const Profile::Span& span) const { return tick_ * static_cast<double>(span.end - span.begin); }

  void find_first() {
    for (const Profile::Span& span : profile_.spans())
      if (span.parent < 0 && !span.cut) ++cold_[place_of(span.name, cold_)].calls;
    std::erase_if(cold_, [](const PhaseTotal& phase) { return phase.calls == 1; });
  }

  OperatorTotal* total_of(const Place& place) {
    if (place.total < 0) return nullptr;
    return &phases_[static_cast<size_t>(place.phase)].operators[static_cast<size_t>(place.total)];
  }

  void add(const Profile::Span& span, Place& place) {
    if (span.parent < 0) {
      if (!span.cut && std::erase_if(cold_, [&](const PhaseTotal& p) { return p.name == span.name; }) == 0)
        place.phase = begin_phase(span);
    } else if (const Place& around = places_[static_cast<size_t>(span.parent)]; around.phase >= 0) {
      place.phase = around.phase;
      place.path = around.path;
      if (!span.is_operator && span.layer < 0) place.path.append(span.name).append("/");
      if (OperatorTotal* total = total_of(around)) total->seconds -= seconds_of(span);
    }
    if (!span.is_operator || place.phase < 0) return;
    std::vector<OperatorTotal>& operators = phases_[static_cast<size_t>(place.phase)].operators;
    place.total = static_cast<int>(place_of(place.path + span.name, operators));
    OperatorTotal& total = operators[static_cast<size_t>(place.total)];
    ++total.calls;
    total.seconds += seconds_of(span);
    total.work += span.work;
  }

  int begin_phase(const Profile::Span& span) {
    const size_t at = place_of(span.name, phases_);
    ++phases_[at].calls;
    phases_[at].seconds += seconds_of(span);
    return static_cast<int>(at);
  }

  const Profile& profile_;
  double tick_;                   // seconds
  std::vector<PhaseTotal> cold_;  // whose first is still to be left out
  std::vector<Place> places_;     // [spans]
  std::vector<PhaseTotal> phases_;
};

}  // namespace

double PhaseTotal::uncovered() const {
  double rest = seconds;
  for (const OperatorTotal& total : operators) rest -= total.seconds;
  return rest;
}

std::vector<PhaseTotal> summarize(const Profile& profile, bool warm) { return Summary(profile, warm).phases(); }

}  // namespace choir::base
