"""What the demonstration found, in words and as a table for a terminal."""
import math
import textwrap

KINDS = ("prose", "code", "problems")
WIDTH = 86


def introduction(results):
    return (f"{results['model']} has {results['layers']} layers of {results['experts']} experts, and a token uses 2 of "
            "them. Choir left out the experts that matter least for one kind of text (keep), or a token's second "
            "expert where the first one weighs enough (skipping), or both. Lower perplexity is better; KL is the "
            "distance from the full model's predictions.")


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def ratios(results, variant):
    """(perplexity over that of the full model on the kind calibrated on, the same on the other kinds)."""
    full = results["rows"][0]["perplexity"]
    own, other = [], []
    for row in results["rows"]:
        if row["variant"] == variant:
            for kind in KINDS:
                (own if kind == row["kind"] else other).append(row["perplexity"][kind] / full[kind])
    return geometric_mean(own), geometric_mean(other)


def conclusion(results):
    full = results["rows"][0]
    keep = f"keep {results['keeps'][1]}"
    pruned = next(row for row in results["rows"] if row["variant"] == keep)
    skipping = [row for row in results["rows"] if row["variant"] == "skipping"]
    active = sum(row["active"] for row in skipping) / len(skipping) / full["active"]
    own, other = ratios(results, keep)
    light, _ = ratios(results, "skipping")
    return (f"With {results['keeps'][1]} of {results['experts']} experts the file is "
            f"{1 - pruned['bytes'] / full['bytes']:.0%} smaller, and perplexity is {own:.2f} times the full model's on "
            f"the kind of text calibrated on, {other:.2f} times on the other kinds. Skipping uses {1 - active:.0%} "
            f"fewer parameters per token, at {light:.2f} times the perplexity.")


def cells(row):
    """A row's words, in the order of the columns."""
    own = row["kind"]
    perplexities = [f"{row['perplexity'][kind]:.2f}" for kind in KINDS]
    return [row["variant"], f"{row['bytes'] / 1e6:.1f}", f"{row['active'] / 1e6:.2f}",
            f"{row['tokens_per_second']:.0f}", *perplexities, f"{row['kl'][own]:.3f}" if own else "0"]


def table(results):
    rule = "-" * WIDTH
    lines = [f"{'calibrated':<12}{'model':<10}{'size':>7}{'active':>9}{'tokens':>9}   {'perplexity on':<30}{'KL':>6}",
             f"{'on':<12}{'':<10}{'MB':>7}{'M':>9}{'/s':>9}{'prose':>10} {'code':>9} {'problems':>9}{'':>4}{'on *':>6}"]
    last = object()
    for row in results["rows"]:
        if row["kind"] != last:
            lines.append(rule)
        name, size, active, speed, *perplexities, kl = cells(row)
        marks = ["*" if kind == row["kind"] else " " for kind in KINDS]
        shown = "".join(f"{value:>9}{mark}" for value, mark in zip(perplexities, marks))
        group = (row["kind"] or "-") if row["kind"] != last else ""
        lines.append(f"{group:<12}{name:<10}{size:>7}{active:>9}{speed:>9} {shown}{kl:>9}")
        last = row["kind"]
    return "\n".join([*lines, rule, "* the kind of text that the model was calibrated on; "
                                    "measured on other passages of it"])


def shown_text(sample):
    """Prompt and continuation on few lines, with breaks written out."""
    text = f"{sample['prompt'][-60:]}|{sample['text']}".replace("\n", " \u23ce ")
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return textwrap.fill(text, WIDTH, initial_indent=f"  {sample['variant']:<10}", subsequent_indent=" " * 12,
                         max_lines=3, placeholder=" ...")


def samples(results):
    wanted = ("full", *(f"keep {keep}" for keep in results["keeps"]))
    lines = ["What they say (after the bar; temperature 0.7, each calibrated on this kind of text):"]
    for kind in KINDS:
        lines.append(f"{kind}")
        lines += [shown_text(s) for s in results["samples"] if s["kind"] == kind and s["variant"] in wanted]
    return "\n".join(lines)


def report(results):
    paragraphs = [textwrap.fill(introduction(results), WIDTH), table(results),
                  textwrap.fill(conclusion(results), WIDTH), samples(results)]
    return "\n" + "\n\n".join(paragraphs) + "\n"
