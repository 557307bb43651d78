"""What the demonstration found, as one page of HTML that needs nothing else."""
import html

import demo_charts
import demo_report
from demo_report import KINDS

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5d6878; --paper: #fbfaf7; --card: #ffffff; --line: #dfe2e8;
  --accent: #0b6e75; --own: #d9f0ee; --c0: #0b6e75; --c1: #c2542d; --c2: #6a4fb3; --c3: #8a7a12; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa5b5; --paper: #12161d; --card: #1a2029;
  --line: #303846; --accent: #4cc3c9; --own: #173d40; --c0: #4cc3c9; --c1: #f0916c; --c2: #b39df2; --c3: #d8c55a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .6rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .4rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; text-transform: capitalize; }
p { max-width: 46rem; margin: .4rem 0 1rem; }
.lead { font-size: 1.1rem; }
.soft, figcaption { color: var(--soft); font-size: .88rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; padding: .8rem;
  overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .7rem; text-align: right; white-space: nowrap; }
th { font-weight: 600; color: var(--soft); font-size: .85rem; border-bottom: 1px solid var(--line); }
th.name, td.name { text-align: left; }
tbody + tbody tr:first-child > * { border-top: 1px solid var(--line); }
tbody th { color: var(--ink); text-transform: capitalize; vertical-align: top; border-bottom: 0; text-align: left; }
td.own { background: var(--own); font-weight: 600; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: .8rem; }
figure { margin: 0; }
svg { display: block; width: 100%; height: auto; font: 11px system-ui, sans-serif; fill: var(--ink); }
svg .axis { stroke: var(--line); } svg .soft { fill: var(--soft); }
.says { display: grid; grid-template-columns: 6rem 1fr; gap: .5rem .9rem; margin: 0; }
.says dt { color: var(--soft); } .says dd { margin: 0; min-width: 0; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: .85rem/1.5 ui-monospace, monospace; }
pre b { color: var(--soft); font-weight: 400; }
"""


def row_html(row):
    name, size, active, speed, *perplexities, _ = demo_report.cells(row)
    own = lambda kind: ' class="own"' if kind == row["kind"] else ""
    measured = "".join(f"<td{own(kind)}>{value}</td>" for kind, value in zip(KINDS, perplexities))
    distances = "".join(f"<td{own(kind)}>{row['kl'].get(kind, 0):.3f}</td>" for kind in KINDS)
    return f'<td class="name">{name}</td><td>{size}</td><td>{active}</td><td>{speed}</td>{measured}{distances}'


def table(results):
    head = "".join(f"<th>{kind}</th>" for kind in KINDS)
    bodies = []
    for group in (None, *KINDS):
        rows = [row for row in results["rows"] if row["kind"] == group]
        first = f'<th rowspan="{len(rows)}" scope="rowgroup">{group or "not shrunk"}</th>'
        lines = "".join(f"<tr>{first if i == 0 else ''}{row_html(row)}</tr>" for i, row in enumerate(rows))
        bodies.append(f"<tbody>{lines}</tbody>")
    return f"""<div class="card"><table><thead>
<tr><th class="name" rowspan="2">calibrated on</th><th class="name" rowspan="2">model</th><th rowspan="2">size MB</th>
<th rowspan="2">active M</th><th rowspan="2">tokens/s</th><th colspan="3">perplexity on</th>
<th colspan="3">KL to the full model on</th></tr><tr>{head}{head}</tr></thead>{"".join(bodies)}</table></div>"""


def figure(drawing, caption):
    return f'<figure class="card">{drawing}<figcaption>{caption}</figcaption></figure>'


def loads(results):
    most = max(share / sum(layer) for load in results["load"].values() for layer in load for share in layer)
    figures = [figure(demo_charts.heat_map(results["load"][kind], most), kind) for kind in KINDS]
    return f'<div class="row">{"".join(figures)}</div>'


def curves(results):
    blocks = []
    for kind in KINDS:
        pruned = results["prune"][kind]
        figures = []
        for keep, layers in pruned.items():
            lines = [sorted(loss for _, loss in layer["losses"]) for layer in layers]
            chosen = [layer["loss"] for layer in layers]
            drawing = demo_charts.line_chart(lines, [f"layer {layer['layer']}" for layer in layers], chosen)
            sets = layers[0]["candidates"]
            figures.append(figure(drawing, f"keep {keep}: loss of all {sets} sets of experts, best to worst"))
        lines = [[layer["loss"] for layer in layers] for layers in pruned.values()]
        drawing = demo_charts.line_chart(lines, [f"keep {keep}" for keep in pruned], [])
        figures.append(figure(drawing, "loss of the chosen set, first layer to last"))
        blocks.append(f'<h3>{kind}</h3><div class="row">{"".join(figures)}</div>')
    return "".join(blocks)


def texts(results):
    blocks = []
    for kind in KINDS:
        found = [sample for sample in results["samples"] if sample["kind"] == kind]
        said = "".join(f"<dt>{s['variant']}</dt><dd><pre><b>{html.escape(s['prompt'])}</b>{html.escape(s['text'])}"
                       "</pre></dd>" for s in found)
        blocks.append(f'<h3>{kind}</h3><dl class="card says">{said}</dl>')
    return "".join(blocks)


def page(results):
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Choir: one model, made smaller in three ways</title><style>{STYLE}</style></head><body><main>
<h1>One model, made smaller in three ways, for three kinds of text</h1>
<p class="lead">{html.escape(demo_report.introduction(results))}</p>
{table(results)}
<p class="soft">Shaded: the kind of text that the model was calibrated on, measured on other passages of it. Active: the
parameters that work on one token; where experts are skipped, their mean over the shaded kind.</p>
<p>{html.escape(demo_report.conclusion(results))}</p>
<h2>Which experts work on which kind of text</h2>
<p>The full model. A row is a layer, a column an expert, the number its share of the layer's work in percent. If all
worked alike it would be {100 / results["experts"]:.1f} everywhere.</p>
{loads(results)}
<h2>How the experts that stay are chosen</h2>
<p>For every set of experts that could stay, Choir computes how far each layer's output would move on the calibration
text, and takes the set with the least (the dot). A steep curve means that the choice matters.</p>
{curves(results)}
<h2>What they say</h2>
<p>The prompt in grey, then what follows (temperature 0.7, the same seed); each model is the one for that
kind of text.</p>
{texts(results)}
</main></body></html>
"""
