"use strict";
// Elements, numbers and colours: what charts and panels share.

const SVG = document.getElementById("svg").namespaceURI;

// Text is always a text node, so that no name of a run is read as markup.
function element(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function drawn(tag, attributes, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {}))
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const known = (value) => value !== null && value !== undefined && !Number.isNaN(value);
const dark = window.matchMedia("(prefers-color-scheme: dark)");

// With so many digits that the step from one tick to the next can be seen.
function decimals(value, digits) {
  if (Math.abs(value) < 0.5 * 10 ** -digits) value = 0;  // and not -0.0
  if (!known(value)) return "–";
  return value.toLocaleString("en", {minimumFractionDigits: digits, maximumFractionDigits: digits});
}

function short(value) {
  if (!known(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2);
  if (size >= 1000 || Number.isInteger(value)) return decimals(value, 0);
  return decimals(value, size >= 100 ? 1 : size >= 10 ? 2 : size >= 1 ? 3 : 4);
}

function counted(value) {
  if (!known(value)) return "–";
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]])
    if (value >= size) return `${decimals(value / size, value >= 100 * size ? 0 : value >= 10 * size ? 1 : 2)} ${unit}`;
  return decimals(value, 0);
}

function lasted(seconds) {
  if (!known(seconds)) return "–";
  if (seconds < 120) return `${decimals(seconds, seconds < 10 ? 2 : 1)} s`;
  if (seconds < 7200) return `${decimals(seconds / 60, 1)} min`;
  return `${decimals(seconds / 3600, 1)} h`;
}

const percent = (value, digits = 1) => known(value) ? `${decimals(100 * value, digits)} %` : "–";

function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((m) => m * power >= rough * (1 - 1e-9));
  const list = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-6; ++i) list.push(i * step || 0);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (Math.abs(step / power - 2.5) < 1e-9 ? 1 : 0));
  return {list, digits: Math.min(digits, 8)};
}

const VIRIDIS = ["440154", "482878", "3e4a89", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"]
  .map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));

function viridis(share) {
  const at = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1), i = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return VIRIDIS[i].map((from, k) => Math.round(from + (at - i) * (VIRIDIS[i + 1][k] - from)));
}

const css = (rgb) => `rgb(${rgb.join(" ")})`;
const runColour = (i) => `var(--r${i % 8})`;
const runDash = (i) => i >= 8 ? "6 3" : null;  // the colours come round again

// From the dark end to the light one, short of the end that the background swallows.
function layerColour(layer, layers) {
  const share = layers > 1 ? layer / (layers - 1) : 0.5;
  return css(viridis(dark.matches ? 0.3 + 0.7 * share : 0.85 * share));
}

// The box of values: a heading and rows of [colour or null, name, value].
const tip = {
  node: document.getElementById("tip"),
  show(x, y, heading, rows) {
    const body = rows.map(([colour, name, value]) => element("tr", {},
      element("td", {}, colour ? element("span", {class: "chip", style: `border-color:${colour}`}) : null),
      element("td", {}, name), element("td", {}, value)));
    this.node.replaceChildren(element("b", {}, heading), element("table", {}, element("tbody", {}, ...body)));
    this.node.hidden = false;
    const box = this.node.getBoundingClientRect();
    const left = x + 16 + box.width > innerWidth ? x - 16 - box.width : x + 16;
    this.node.style.left = `${Math.max(4, left)}px`;
    this.node.style.top = `${Math.max(4, Math.min(y + 12, innerHeight - box.height - 4))}px`;
  },
  hide() { this.node.hidden = true; },
};
addEventListener("scroll", () => tip.hide(), {passive: true});
