// The panels. A panel for which no run has data is left out.

const {runs} = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");
const state = {axis: "step", smooth: 30, crop: true, hidden: new Set(), run: 0, map: -1, cosine: -1, domain: "each"};
const longest = Math.max(...runs.map((run) => run.steps));
runs.forEach((run, i) => { run.colour = runColour(i); run.dash = runDash(i); });
const shown = () => runs.filter((_, i) => !state.hidden.has(i));
const current = () => runs[state.run];

const AXES = {
  step: {label: "steps", title: "Steps", of: () => 1, format: (x) => `step ${decimals(x, 0)}`},
  tokens: {label: "million tokens", title: "Tokens", of: () => 1e-6, format: (x) => `${decimals(x, 2)} million tokens`},
  seconds: {label: "minutes of training", title: "Time", of: () => 1 / 60, format: (x) => lasted(60 * x)},
};
const axis = () => AXES[state.axis];

// Tokens or seconds of a step, in a line between the steps for which the page knows them.
function between(knots, values, step) {
  const i = Math.min(Math.max(nearest(knots, step), 0), knots.length - 1);
  const j = step < knots[i] ? i - 1 : i + 1;
  if (knots[i] === step || !known(knots[j])) return values[i];
  return values[i] + (step - knots[i]) / (knots[j] - knots[i]) * (values[j] - values[i]);
}

function along(run, steps) {
  if (state.axis === "step") return steps;
  const {step, [state.axis]: values} = run.axis, scale = axis().of();
  return known(values[0]) ? steps.map((s) => scale * between(step, values, s)) : [];
}

const smoothing = () => (state.smooth / 100) ** 2 * 0.12 * longest;  // steps of the window

// The mean over a window that lies evenly around each point, cut off where the curve ends.
function smoothed(steps, values) {
  const reach = smoothing() / 2, result = [];
  let begin = 0, end = 0, sum = 0, count = 0;
  for (let i = 0; i < steps.length; ++i) {
    for (; end < steps.length && (steps[end] <= steps[i] + reach || end <= i); ++end)
      if (known(values[end])) { sum += values[end]; ++count; }
    for (; steps[begin] < steps[i] - reach; ++begin) if (known(values[begin])) { sum -= values[begin]; --count; }
    result.push(known(values[i]) && count > 0 ? sum / count : null);
  }
  return result;
}

function curve(run, data, look, raw) {
  const x = along(run, data.step), y = smoothed(data.step, data.mean);
  return {...look, x, y, ...(raw ? {low: data.low || data.mean, high: data.high || data.mean} : {})};
}

function acrossRuns(field, raw) {
  return () => shown().filter((run) => run.curves[field])
    .map((run) => curve(run, run.curves[field], {name: run.name, colour: run.colour, dash: run.dash}, raw));
}

function panel(title, text, ...nodes) {
  const there = nodes.filter((node) => node);
  if (!there.length) return;
  main.append(element("section", {}, element("h2", {}, title), text ? element("p", {}, text) : null, ...there));
}

function grid(nodes, kind = "") {
  const there = nodes.filter((node) => node);
  return there.length ? element("div", {class: `grid ${kind}`}, ...there) : null;
}

// Once for each frame of the screen, however fast a slider moves.
let waiting = 0;
function redraw() {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(() => { for (const drawing of drawings) drawing.draw(); });
}

// ---- what stands above the curves

function segments(label, choices, chosen, take) {
  const buttons = choices.map(([value, text]) => element("button", {type: "button", "aria-pressed": value === chosen,
    onclick: () => {
      buttons.forEach((b, i) => b.setAttribute("aria-pressed", choices[i][0] === value));
      take(value);
    }}, text));
  return element("span", {class: "choice"}, label,
    element("span", {class: "segments", role: "group", "aria-label": label}, ...buttons));
}

function slider(label, most, value, text, take) {
  const said = element("output", {}, text(value));
  const input = element("input", {type: "range", min: 0, max: most, value, "aria-label": label, oninput: () => {
    said.textContent = text(Number(input.value));
    take(Number(input.value));
  }});
  return element("label", {class: "choice"}, label, input, said);
}

function chooser(label, choices, value, take) {
  const options = choices.map(([v, text]) =>
    element("option", {value: v, selected: String(v) === String(value)}, text));
  const select = element("select", {onchange: () => take(select.value)}, ...options);
  return element("label", {class: "choice"}, label, select);
}

const chip = (run) => element("span", {class: `chip${run.dash ? " dashed" : ""}`, style: `border-color:${run.colour}`});

function tools() {
  const legend = runs.map((run, i) => element("button", {type: "button", "aria-pressed": true, title: "show or hide",
    onclick: (event) => {
      if (!state.hidden.delete(i)) state.hidden.add(i);
      event.currentTarget.setAttribute("aria-pressed", !state.hidden.has(i));
      redraw();
    }}, chip(run), run.name));
  const axes = Object.keys(AXES).filter((key) => key === "step" || runs.some((run) => known(run.axis[key][0])));
  document.getElementById("tools").append(element("div", {},
    segments("over", axes.map((key) => [key, AXES[key].title]), "step", (key) => { state.axis = key; redraw(); }),
    segments("losses", [[true, "later part"], [false, "all"]], true, (crop) => { state.crop = crop; redraw(); }),
    slider("smoothed over", 100, state.smooth,
      (v) => { state.smooth = v; return smoothing() < 1 ? "nothing" : `${decimals(smoothing(), 0)} steps`; }, redraw),
    element("div", {class: "legend", role: "group", "aria-label": "runs"}, ...legend)));
}

// ---- tables

const LEAK = 0.02;  // as choir doctor judges
const gapOf = (s) => known(s.loss) && known(s.loss_training_rule) ? s.loss / s.loss_training_rule - 1 : null;

const COLUMNS = [  // head, value of a run, how it is written, what is best
  ["loss, decode rule", (r) => r.summary.loss, (v) => decimals(v, 4), "best"],
  ["loss, training rule", (r) => r.summary.loss_training_rule, (v) => decimals(v, 4)],
  ["gap", (r) => gapOf(r.summary), (v) => (v > 0 ? "+" : "") + percent(v, 2), "gap"],
  ["training loss", (r) => r.summary.training_loss, (v) => decimals(v, 3)],
  ["tokens an expert", (r) => r.summary.tokens_per_expert, (v) => decimals(v, 1)],
  ["pairs processed", (r) => r.summary.processed_share, (v) => percent(v)],
  ["busiest over mean", (r) => r.summary.max_over_mean_load, (v) => decimals(v, 2)],
  ["mean step", (r) => r.summary.step_seconds, (v) => v < 10 ? `${decimals(1000 * v, 0)} ms` : lasted(v)],
  ["tokens/s", (r) => r.summary.tokens_per_second, (v) => decimals(v, 0)],
  ["peak memory", (r) => r.summary.peak_memory, (v) => `${counted(v)}B`],
  ["parameters", (r) => r.parameters, counted],
  ["active", (r) => r.active_parameters, counted],
  ["steps", (r) => r.steps, (v) => decimals(v, 0)],
  ["tokens", (r) => r.tokens, counted],
  ["time", (r) => r.seconds, lasted],
  ["seed", (r) => r.seed, (v) => String(v)],
];

function rowHead(run) {
  const title = run.title && run.title !== run.name ? element("div", {class: "soft"}, run.title) : null;
  return element("th", {scope: "row", title: run.name}, chip(run), " ", run.name, title);
}

function valueCell([, of, write, mark], run, best) {
  const value = of(run);
  const isBest = mark === "best" && value === best && runs.length > 1, isBad = mark === "gap" && value > LEAK;
  return element("td", {class: isBest ? "best" : isBad ? "bad" : null}, known(value) ? write(value) : "–");
}

function table(columns, withRouter) {
  const there = columns.filter(([, of]) => runs.some((run) => known(of(run))));
  if (!there.length) return null;
  const bests = there.map(([, of]) => Math.min(...runs.map(of).filter(known)));
  const head = element("tr", {}, element("th", {scope: "col"}, "run"),
    withRouter ? element("th", {scope: "col", class: "left"}, "router") : null,
    ...there.map(([name]) => element("th", {scope: "col"}, name)));
  const body = runs.map((run) => element("tr", {}, rowHead(run),
    withRouter ? element("td", {class: "left"}, element("code", {}, run.router || "–")) : null,
    ...there.map((column, i) => valueCell(column, run, bests[i]))));
  return element("div", {class: "card scroll", tabindex: 0, role: "region", "aria-label": "table"},
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
}

function domainTable() {
  const names = [...new Set(runs.flatMap((run) => (run.summary.domains || []).map((d) => d.name)))];
  const find = (run, name) => (run.summary.domains || []).find((d) => d.name === name);
  return names.length ? table(names.map((name) =>
    [name, (run) => find(run, name)?.loss, (v) => decimals(v, 4), "best"])) : null;
}

function findings() {
  const items = runs.flatMap((run) => run.findings.filter((f) => f.severity !== "note").map((f) => element("li", {},
    element("span", {class: f.severity}, f.severity), element("span", {}, run.name),
    element("span", {}, `${f.check}${f.layer >= 0 ? `, layer ${f.layer}` : ""}: ${f.message}`))));
  return items.length ? element("div", {class: "card"}, element("ul", {class: "findings"}, ...items)) : null;
}

// ---- curves of all runs

function fieldChart(field, title, note, more = {}) {
  if (!runs.some((run) => run.curves[field])) return null;
  return new LineChart({title, note, axis, series: acrossRuns(field), ...more}).node;
}

function evaluationSeries(run, of, look) {
  const values = run.evaluations.map(of);
  return {name: run.name, colour: run.colour, dash: run.dash, ...look, y: values,
    x: along(run, run.evaluations.map((e) => e.step))};
}

function evaluationChart(title, note, of, more = {}) {
  if (!runs.some((run) => run.evaluations.some((e) => known(of(e))))) return null;
  const series = () => shown().map((run) => evaluationSeries(run, of, {}));
  return new LineChart({title, note, axis, series, ...more}).node;
}

function rulesChart() {
  if (!runs.some((run) => run.evaluations.length)) return null;
  return new LineChart({title: "Evaluation loss", note: "Solid: decode rule. Dashed: training rule. Nats a token.",
    axis, height: 300, crop: () => state.crop, format: (v) => decimals(v, 4), series: () => shown().flatMap((run) => [
      evaluationSeries(run, (e) => e.loss, {name: `${run.name}, decode rule`, dash: null}),
      evaluationSeries(run, (e) => e.loss_training_rule, {name: `${run.name}, training rule`, dash: "3 3"})])}).node;
}

function losses() {
  const loss = new LineChart({title: "Training loss", note: "Nats a token. Faint: from least to greatest value.",
    axis, height: 340, crop: () => state.crop, format: (v) => decimals(v, 4), series: acrossRuns("loss", true)}).node;
  panel("Loss", null, loss);
  panel("The two rules of routing", "In training an expert may see which tokens the batch holds and choose among " +
    "them; while decoding it cannot. The loss under the decode rule is the one to believe.",
  grid([rulesChart(), evaluationChart("Gap", "Decode rule over training rule. Above the dotted 2 %: a leak.",
    (e) => gapOf(e), {height: 300, marks: [0, LEAK], percent: true}),
  evaluationChart("Agreement", "Share of choices that are the same under both rules.", (e) => e.agreement,
    {height: 300, percent: true})]));
}

function courses() {
  panel("How the runs went", null, grid([
    fieldChart("processed_share", "Pairs processed", "Kept over proposed, mean over layers.", {percent: true}),
    fieldChart("dropped_token_share", "Tokens dropped", "By every expert, mean over layers.",
      {percent: true, least: 0}),
    fieldChart("max_over_mean_load", "Busiest expert over the mean", "In the worst layer; 1 is balance.",
      {least: 1, crop: () => state.crop}),
    fieldChart("local_share", "Pairs on the token's node", "Share of the computed pairs, mean over layers.",
      {percent: true, least: 0}),
    fieldChart("balance_loss", "Balance loss", "Sum over the layers.", {crop: () => state.crop}),
    fieldChart("gradient_norm", "Gradient norm", "Before clipping.", {least: 0, crop: () => state.crop}),
    fieldChart("learning_rate", "Learning rate", null, {least: 0, format: (v) => v.toExponential(2)}),
    fieldChart("tokens_per_second", "Tokens a second", null, {least: 0}),
    fieldChart("share_of_peak", "Share of the machine's peak", null, {percent: true, least: 0}),
    fieldChart("peak_memory", "Peak memory", "Bytes.", {least: 0, format: (v) => `${counted(v)}B`})], "small"));
}

// ---- inside one run

const LAYER_CHARTS = [
  ["capacity", "Capacity", "Tokens an expert takes at most.", {least: 0}],
  ["capacity_factor", "Capacity factor", "Capacity over an even share.", {least: 0}],
  ["log_min_capacity", "Log of the least capacity", "By the largest cosine; ETR, remark 7.", {}],
  ["processed_share", "Pairs processed", "Kept over proposed.", {percent: true}],
  ["dropped_token_share", "Tokens dropped", "By every expert.", {percent: true, least: 0}],
  ["max_over_mean_load", "Busiest expert over the mean", "1 is balance.", {least: 1}],
  ["local_share", "Pairs on the token's node", "Share of the computed pairs.", {percent: true, least: 0}],
  ["load_entropy", "Entropy of the load", "Nats.", {}],
  ["dead_experts", "Dead experts", "Without a token in the step.", {least: 0}],
  ["tokens_per_expert", "Tokens an expert", "Processed, mean.", {}],
  ["affinity_kept", "Affinity of kept pairs", "Mean.", {}],
  ["affinity_dropped", "Affinity of dropped pairs", "Mean.", {}],
  ["balance_loss", "Balance loss", null, {}],
  ["router_gradient_norm", "Gradient norm of the router", null, {least: 0}],
];

function layerSeries(field) {
  const layers = current().layers[field] || [];
  return layers.map((data, l) => curve(current(), data, {name: `layer ${l}`, colour: layerColour(l, layers.length)}));
}

function layerCharts() {
  const {layers} = current();
  return LAYER_CHARTS.filter(([field]) => layers[field]).map(([field, title, note, more]) =>
    new LineChart({title, note, axis, series: () => layerSeries(field), ...more}).node);
}

function layerLegend() {
  const layers = Math.max(0, ...Object.values(current().layers).map((l) => l.length));
  const chips = Array.from({length: layers}, (_, l) => element("span", {class: "choice"},
    element("span", {class: "chip", style: `border-color:${layerColour(l, layers)}`}), `layer ${l}`));
  return layers > 1 && layers <= 48 ? element("div", {class: "controls"}, ...chips) : null;
}

const chosenMap = () => current().maps.at(Math.min(state.map, current().maps.length - 1));
const chosenCosine = () => current().cosines.at(Math.min(state.cosine, current().cosines.length - 1));

// What the domains of an evaluation make together, weighted by their tokens; null where none has a number.
function tableOf(domains, what) {
  return domains[0][what].map((row, l) => row.map((_, e) => {
    let total = 0, weights = 0;
    for (const d of domains.filter((d) => known(d[what]?.[l]?.[e]))) {
      total += (d.tokens || 1) * d[what][l][e];
      weights += d.tokens || 1;
    }
    return weights ? total / weights : null;
  }));
}

// One scale for all steps and domains of a run, so that colours can be compared.
function scaleOf(what) {
  const rows = current().maps.flatMap((m) => m.domains.flatMap((d) => d[what] || []));
  const [low, high] = extent(rows) || [0, 1];
  return what === "load" ? [0, high] : [Math.min(0, low), high];
}

function domainMaps(what, title, format, cell) {
  const names = current().maps.at(-1).domains.filter((d) => d[what]).map((d) => d.name);
  if (!names.length) return null;
  const scale = scaleOf(what), picked = state.domain === "each" ? names : names.filter((n) => n === state.domain);
  const find = (name) => chosenMap().domains.filter((d) => d[what] && (name === "all" || d.name === name));
  const map = (name, heading) => new HeatMap({title: heading, names: ["layer", "expert"], format, cell,
    scale: () => scale, table: () => find(name).length ? tableOf(find(name), what) : []}).node;
  const maps = state.domain === "all" ? [map("all", `${title}, all domains`)]
    : picked.map((n) => map(n, `${title}, ${n}`));
  return [element("div", {class: "controls"}, colourBar(format(scale[0]), format(scale[1]))), grid(maps, "small")];
}

function stepSlider(tables, key, label) {
  if (tables.length < 2) return null;
  const at = Math.min(state[key] < 0 ? Infinity : state[key], tables.length - 1);
  return slider(label, tables.length - 1, at, (i) => `step ${decimals(tables[i].step, 0)}`,
    (i) => { state[key] = i; redraw(); });
}

function mapPart() {
  const {maps} = current();
  if (!maps.length) return [];
  const names = maps.at(-1).domains.map((d) => d.name);
  const choices = [["each", "each beside the others"], ["all", "all together"], ...names.map((n) => [n, n])];
  return [element("h2", {}, "Experts, layers and domains"),
    element("p", {}, "Rows are layers, columns experts. Load: share of the layer's processed pairs, " +
      "the same for all experts if they worked alike. Affinity: mean over the tokens of the domain."),
    element("div", {class: "controls"}, stepSlider(maps, "map", "evaluation"),
      chooser("domain", choices, state.domain, (value) => { state.domain = value; inside(); })),
    ...(domainMaps("load", "Load", percent, (v) => decimals(100 * v, 1)) || []),
    ...(domainMaps("affinity", "Affinity", short, (v) => decimals(v, 2)) || [])];
}

function cosineScale() {
  const others = (row, r) => row.filter((_, k) => k !== r);  // an expert is like itself
  const values = current().cosines.flatMap((c) => c.layers.map((layer) => layer.flatMap(others)));
  return extent(values) || [0, 1];
}

function likenessPart() {
  const {cosines, evaluations} = current();
  const depth = Math.max(0, ...evaluations.map((e) => e.ch_index.length));
  const series = () => Array.from({length: depth}, (_, l) =>
    evaluationSeries(current(), (e) => e.ch_index[l], {name: `layer ${l}`, colour: layerColour(l, depth), dash: null}));
  const index = depth ? new LineChart({title: "CH index", axis, series, height: 220, least: 0,
    note: "Spread between the experts' tokens over spread within them; higher is more apart."}).node : null;
  if (!cosines.length && !index) return [];
  const scale = cosines.length ? cosineScale() : [0, 1];
  const maps = (cosines.at(-1)?.layers || []).map((_, l) => new HeatMap({title: `Cosine, layer ${l}`, square: true,
    names: ["expert", "expert"], scale: () => scale, skip: (r, c) => r === c, format: (v) => decimals(v, 4),
    cell: (v) => decimals(v, 2), table: () => chosenCosine().layers[l] || []}).node);
  return [element("h2", {}, "How alike the experts are"),
    element("p", {}, "Mean cosine of two experts' answers to the same tokens: 1 means that one of them is spare."),
    maps.length ? element("div", {class: "controls"}, stepSlider(cosines, "cosine", "evaluation"),
      colourBar(short(scale[0]), short(scale[1]))) : null,
    grid(maps, "small cosines"), index];
}

const place = element("section", {});
let outside = new Set();  // the drawings that do not depend on the run that is chosen

function inside() {
  for (const drawing of [...drawings]) if (!outside.has(drawing)) drawings.delete(drawing);
  const choices = runs.map((run, i) => [i, run.name]);
  const parts = [element("h2", {}, "Inside one run"),
    element("div", {class: "controls"}, chooser("run", choices, state.run, (value) => {
      state.run = Number(value);
      state.map = state.cosine = -1;
      const names = (current().maps.at(-1)?.domains || []).map((d) => d.name);
      if (![...names, "all"].includes(state.domain)) state.domain = "each";
      inside();
      place.querySelector("select").focus({preventScroll: true});
    })), layerLegend(), grid(layerCharts(), "small"), ...mapPart(), ...likenessPart()];
  place.replaceChildren(...parts.filter((part) => part));
  for (const drawing of drawings) if (!outside.has(drawing)) drawing.draw();
}

// ---- the page

const most = Math.max(...runs.map((run) => run.tokens || 0));
document.getElementById("lead").textContent = `${runs.length} ${runs.length === 1 ? "run" : "runs"}, up to ` +
  `${decimals(longest, 0)} steps${most ? ` and ${counted(most)} tokens` : ""}.`;
tools();
panel("Runs", "Losses in nats a token. Training loss, loads and shares: mean of the last tenth of the steps.",
  table(COLUMNS, runs.some((run) => run.router)));
panel("Loss by domain", "At the last evaluation, under the decode rule.", domainTable());
panel("Findings", null, findings());
losses();
courses();
outside = new Set(drawings);
if (runs.some((run) => Object.keys(run.layers).length || run.maps.length || run.cosines.length)) {
  main.append(place);
  inside();
}
redraw();

addEventListener("resize", redraw);
dark.addEventListener("change", () => { inside(); redraw(); });
