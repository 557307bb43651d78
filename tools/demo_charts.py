"""Small drawings in SVG, in the colours of the page around them."""
import math

WIDTH, HEIGHT = 320, 200
LEFT, RIGHT, TOP, BOTTOM = 42, 8, 24, 8  # margins of a chart
CELL_WIDTH, CELL_HEIGHT = 34, 28
GUTTER = 24  # for the numbers of layers and experts


def svg(width, height, parts):
    return f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'


def text(x, y, words, kind="", anchor="middle"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{words}</text>'


def heat_map(load, most):
    """load[layer][expert] in any unit. A cell is as dark as its share of its layer; `most` is the darkest share."""
    parts = [text(GUTTER + (e + .5) * CELL_WIDTH, 14, e, "soft") for e in range(len(load[0]))]
    for l, layer in enumerate(load):
        y = GUTTER + l * CELL_HEIGHT
        parts.append(text(GUTTER / 2, y + CELL_HEIGHT * .64, l, "soft"))
        for e, work in enumerate(layer):
            share, x = work / sum(layer), GUTTER + e * CELL_WIDTH
            parts.append(f'<rect x="{x + 1}" y="{y + 1}" width="{CELL_WIDTH - 2}" height="{CELL_HEIGHT - 2}" rx="3" '
                         f'fill="var(--accent)" fill-opacity="{.05 + .6 * share / most:.3f}"/>')
            parts.append(text(x + CELL_WIDTH / 2, y + CELL_HEIGHT * .64, f"{100 * share:.0f}"))
    return svg(GUTTER + len(load[0]) * CELL_WIDTH, GUTTER + len(load) * CELL_HEIGHT, parts)


def round_up(value):
    """The next of 1, 1.5, 2, 3, 5, 7, 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 3, 5, 7, 10) if step * power >= value)


def short(value):
    """A number of a few letters: 700, 1.5k, 20k."""
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:.3g}"


def line_chart(lines, names, marked):
    """Lines over their whole length from 0 upward; marked[i] is a value on the left end of line i that gets a dot."""
    top = round_up(max(max(line) for line in lines) or 1)
    x = lambda i, n: LEFT + (WIDTH - LEFT - RIGHT) * i / max(1, n - 1)
    y = lambda value: HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top
    parts = []
    for tick in (0, top / 2, top):
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(text(LEFT - 5, y(tick) + 4, short(tick), "soft", "end"))
    for i, (line, name) in enumerate(zip(lines, names)):
        colour = f"var(--c{i % 4})"
        points = " ".join(f"{x(k, len(line)):.1f},{y(value):.1f}" for k, value in enumerate(line))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        place = LEFT + i * (WIDTH - LEFT) / max(4, len(lines))
        parts.append(f'<rect x="{place:.1f}" y="4" width="9" height="9" rx="2" fill="{colour}"/>')
        parts.append(text(place + 13, 12, name, "soft", "start"))
    for i, value in enumerate(marked):
        parts.append(f'<circle cx="{LEFT}" cy="{y(value):.1f}" r="4" fill="var(--c{i % 4})"/>')
    return svg(WIDTH, HEIGHT, parts)
