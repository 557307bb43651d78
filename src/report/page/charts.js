// Two kinds of drawing: curves and heat maps. Each is a figure with a draw() that fits it into its place.

const drawings = new Set();

function figure(title, note, node) {
  return element("figure", {class: "card"}, element("h3", {}, title),
    note ? element("p", {class: "note"}, note) : null, node);
}

function extent(lists) {
  let low = Infinity, high = -Infinity;
  for (const list of lists) for (const v of list) if (known(v)) { low = Math.min(low, v); high = Math.max(high, v); }
  return low <= high ? [low, high] : null;
}

function nearest(list, value) {
  let low = 0, high = list.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (list[middle] < value) low = middle; else high = middle;
  }
  return value - list[low] <= list[high] - value ? low : high;
}

// options: title, note, height, format(value), percent (of the axis too), least (of the y axis), crop() (look at the
// later part), marks: y values, series(): [{name, colour, dash, x, y, low, high}], axis(): {label, format}.
class LineChart {
  constructor(options) {
    const format = options.percent ? (v) => percent(v, 2) : short;
    this.options = {height: 190, format, marks: [], ...options};
    this.svg = drawn("svg", {class: "chart", tabindex: 0, role: "img", "aria-label": options.title,
      onpointermove: (e) => this.point(e.clientX - this.svg.getBoundingClientRect().left, e.clientY),
      onpointerleave: () => this.leave(), onblur: () => this.leave(), onkeydown: (e) => this.key(e)});
    this.node = figure(options.title, options.note, this.svg);
    drawings.add(this);
  }

  draw() {
    const width = this.svg.clientWidth || 400, {height} = this.options;
    this.series = this.options.series().filter((s) => s.x.length > 0);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.style.height = `${height}px`;
    this.box = {left: 50, right: width - 8, top: 8, bottom: height - 34};
    this.svg.replaceChildren();
    this.xs = extent(this.series.map((s) => [s.x[0], s.x[s.x.length - 1]]));
    if (!this.xs) return;
    this.xs = [0, this.xs[1] || 1];
    this.ys = this.range();
    this.grid(width);
    this.curves();
    this.cross = drawn("g", {});
    this.svg.append(this.cross);
  }

  // With crop, the steep beginning is left out: else nothing could be told apart in what follows.
  range() {
    const from = this.options.crop && this.options.crop() ? this.xs[0] + 0.12 * (this.xs[1] - this.xs[0]) : -Infinity;
    const later = (s, list) => list.filter((_, i) => s.x[i] >= from);
    const lists = this.series.flatMap((s) => s.low ? [later(s, s.low), later(s, s.high)] : [later(s, s.y)]);
    let [low, high] = extent(lists) || extent(this.series.map((s) => s.y)) || [0, 1];
    if (this.options.least !== undefined) low = Math.min(low, this.options.least);
    const edge = high > low ? 0.05 * (high - low) : Math.abs(high) * 0.1 || 1;
    return [low === this.options.least ? low : low - edge, high + edge];
  }

  px(x) { return this.box.left + (x - this.xs[0]) / (this.xs[1] - this.xs[0]) * (this.box.right - this.box.left); }
  py(y) { return this.box.bottom - (y - this.ys[0]) / (this.ys[1] - this.ys[0]) * (this.box.bottom - this.box.top); }

  grid(width) {
    const {left, right, top, bottom} = this.box, {height} = this.options, axis = this.options.axis();
    const across = ticks(...this.xs, Math.max(2, Math.min(8, width / 80))), up = ticks(...this.ys, height / 50);
    for (const y of up.list) {
      const label = this.options.percent ? `${decimals(100 * y, Math.max(0, up.digits - 2))} %`
        : Math.max(...up.list.map(Math.abs)) >= 1e5 ? counted(y) : decimals(y, up.digits);
      this.svg.append(drawn("line", {class: "rule", x1: left, x2: right, y1: this.py(y), y2: this.py(y)}),
        drawn("text", {x: left - 6, y: this.py(y) + 4, "text-anchor": "end"}, label));
    }
    for (const x of across.list)
      this.svg.append(drawn("text", {x: this.px(x), y: bottom + 16,
        "text-anchor": this.px(x) > right - 16 ? "end" : "middle"}, decimals(x, across.digits)));
    for (const y of this.options.marks)
      if (y > this.ys[0] && y < this.ys[1])
        this.svg.append(drawn("line", {class: "mark", x1: left, x2: right, y1: this.py(y), y2: this.py(y)}));
    this.svg.append(drawn("text", {x: right, y: bottom + 30, "text-anchor": "end"}, axis.label));
    const id = `clip${this.number ??= LineChart.count++}`;
    this.clip = `url(#${id})`;
    this.svg.append(drawn("clipPath", {id},
      drawn("rect", {x: left - 1, y: top - 4, width: right - left + 2, height: bottom - top + 8})));
  }

  curves() {
    const group = drawn("g", {"clip-path": this.clip}), opacity = Math.min(0.2, 0.5 / this.series.length);
    for (const s of this.series)
      if (s.low) {
        const style = `fill:${s.colour};fill-opacity:${opacity}`;
        group.append(drawn("path", {class: "band", d: this.band(s), style}));
      }
    for (const s of this.series)
      group.append(drawn("path", {d: this.path(s.x, s.y), style: `stroke:${s.colour}`, "stroke-dasharray": s.dash}));
    this.svg.append(group);
  }

  path(x, y) {
    let d = "", pen = "M";
    for (let i = 0; i < x.length; ++i) {
      if (!known(y[i])) { pen = "M"; continue; }
      d += `${pen}${this.px(x[i]).toFixed(1)} ${this.py(y[i]).toFixed(1)}`;
      if (pen === "M" && !known(y[i + 1])) d += "h.1";  // a value between gaps is a dot
      pen = "L";
    }
    return d;
  }

  band(s) {
    const there = s.x.map((_, i) => i).filter((i) => known(s.low[i]));
    const at = (i, y) => `${this.px(s.x[i]).toFixed(1)} ${this.py(y).toFixed(1)}`;
    const points = [...there.map((i) => at(i, s.high[i])), ...there.reverse().map((i) => at(i, s.low[i]))];
    return points.length ? `M${points.join("L")}Z` : "";
  }

  point(x, y) {
    if (!this.xs) return;
    const {left, right} = this.box, share = Math.min(Math.max((x - left) / (right - left), 0), 1);
    this.at = this.xs[0] + share * (this.xs[1] - this.xs[0]);
    const rows = [], marks = [drawn("line", {class: "mark", x1: this.px(this.at), x2: this.px(this.at),
      y1: this.box.top, y2: this.box.bottom})];
    for (const s of this.series) {
      if (this.at > s.x[s.x.length - 1] + 0.02 * (this.xs[1] - this.xs[0])) continue;  // the curve has ended before
      const i = nearest(s.x, this.at);
      rows.push([s.colour, s.name, known(s.y[i]) ? this.options.format(s.y[i]) : "–"]);
      if (known(s.y[i]) && s.y[i] <= this.ys[1] && s.y[i] >= this.ys[0])
        marks.push(drawn("circle", {cx: this.px(s.x[i]), cy: this.py(s.y[i]), r: 3, style: `fill:${s.colour}`}));
    }
    this.cross.replaceChildren(...marks);
    const axis = this.options.axis(), box = this.svg.getBoundingClientRect();
    tip.show(box.left + this.px(this.at), y, axis.format(this.at), rows);
  }

  leave() {
    if (this.cross) this.cross.replaceChildren();
    this.at = undefined;
    tip.hide();
  }

  key(event) {
    const stride = {ArrowLeft: -0.01, ArrowRight: 0.01, PageUp: -0.1, PageDown: 0.1, Home: -1, End: 1}[event.key];
    if (event.key === "Escape") this.leave();
    if (stride === undefined || !this.xs) return;
    event.preventDefault();
    const at = (this.at ?? this.xs[0]) + stride * (this.xs[1] - this.xs[0]);
    this.point(this.px(at), this.svg.getBoundingClientRect().top + 20);
  }
}
LineChart.count = 0;

// options: title, note, names: [row names, column names], short column heads, format(value), cell(value): text in a
// cell, table(): rows of numbers, scale(): [low, high], skip(row, column): left grey.
class HeatMap {
  constructor(options) {
    this.options = {skip: () => false, cell: short, format: short, ...options};
    this.canvas = element("canvas", {tabindex: 0, role: "img", "aria-label": options.title,
      onpointermove: (e) => this.point(e), onpointerleave: () => tip.hide(), onblur: () => tip.hide(),
      onkeydown: (e) => this.key(e)});
    this.node = figure(options.title, options.note, this.canvas);
    drawings.add(this);
  }

  draw() {
    const table = this.table = this.options.table(), width = this.canvas.clientWidth || 300;
    const columns = Math.max(1, ...table.map((row) => row.length)), left = 26, top = 16;
    const w = (width - left) / columns, h = Math.max(3, Math.min(28, this.options.square ? w : 28, 560 / table.length));
    this.layout = {left, top, w, h, columns};
    const height = top + h * table.length, ratio = devicePixelRatio || 1;
    this.canvas.style.height = `${height}px`;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    const pen = this.pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = "10.5px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    table.forEach((row, r) => row.forEach((value, c) => this.paint(value, r, c)));
    this.heads();
  }

  paint(value, r, c) {
    const {left, top, w, h} = this.layout, [low, high] = this.options.scale(), pen = this.pen;
    const grey = !known(value) || this.options.skip(r, c), gap = w > 8 && h > 8 ? 1 : 0;
    const rgb = viridis((value - low) / (high - low || 1));
    pen.fillStyle = grey ? getComputedStyle(this.canvas).getPropertyValue("--line") : css(rgb);
    pen.fillRect(left + c * w, top + r * h, w - gap, h - gap);
    const text = grey ? "" : this.options.cell(value);
    if (h < 14 || !text || pen.measureText(text).width > w - 4) return;
    pen.fillStyle = 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2] > 125 ? "#111" : "#fff";
    pen.fillText(text, left + (c + 0.5) * w - 0.5, top + (r + 0.5) * h);
  }

  heads() {
    const {left, top, w, h, columns} = this.layout, pen = this.pen;
    const everyRow = Math.ceil(12 / h), everyColumn = Math.ceil(18 / w);
    pen.fillStyle = getComputedStyle(this.canvas).getPropertyValue("--soft");
    for (let c = 0; c < columns; c += everyColumn) pen.fillText(c, left + (c + 0.5) * w, 8);
    for (let r = 0; r < this.table.length; r += everyRow) pen.fillText(r, left - 12, top + (r + 0.5) * h);
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect(), {left, top, w, h} = this.layout;
    this.show(Math.floor((event.clientY - box.top - top) / h), Math.floor((event.clientX - box.left - left) / w));
  }

  value(v) { return known(v) ? this.options.format(v) : "–"; }

  show(r, c) {
    if (!this.table[r] || c < 0 || c >= this.table[r].length) return tip.hide();
    this.cell = [r, c];
    const box = this.canvas.getBoundingClientRect(), {left, top, w, h} = this.layout;
    const [row, column] = this.options.names;
    tip.show(box.left + left + (c + 0.5) * w, box.top + top + (r + 0.5) * h, this.value(this.table[r][c]),
      [[null, this.options.title, ""], [null, `${row} ${r}, ${column} ${c}`, ""]]);
  }

  key(event) {
    const move = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (event.key === "Escape") tip.hide();
    if (!move) return;
    event.preventDefault();
    const [r, c] = this.cell || [0, -1];
    const row = Math.min(Math.max(r + move[0], 0), this.table.length - 1);
    this.show(row, Math.min(Math.max(c + move[1], 0), this.table[row].length - 1));
  }
}

function colourBar(low, high) {
  const stops = VIRIDIS.map((_, i) => css(viridis(i / (VIRIDIS.length - 1)))).join(",");
  const bar = element("i", {style: `background:linear-gradient(90deg,${stops})`});
  return element("span", {class: "bar"}, low, bar, high);
}
