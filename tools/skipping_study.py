"""Skipping alone and on pruned models: the tables of docs/results/pruning.md.

skipping_study.py CHOIR MODEL DATA OUT [--keep R...] [--budgets B...] [--characters N] [--rounds N] [--seed N]

MODEL, DATA and OUT are those of tools/pruning_study.py, which is run first: it trains the model, and its texts and its
pruned models in OUT ("search, shared") are used. Skipping is calibrated on the mixed text, of the pruned model where
there is one; distances are from the full model, on the held-out text of each domain. `one threshold` is the published
rule for any top-k with the same tail for every layer, found by halving so that it skips as much of the calibration text
as the budget says. What is finished is not made again, but for speeds: in a round every model decodes after one prompt,
one after another.
"""
import argparse
import json
import pathlib
import statistics

import pruning_study as study
from pruning_study import CALIBRATION, DOMAINS, choir


def text(options, domain):
    return options.out / f"test-{domain}.txt"


def calibration(options):
    return ["--calibrate", options.out / "calibrate-mixed.txt", *CALIBRATION]


def one_threshold(options, model, budget):
    """The tail at which the budget is met: more is skipped the larger it is."""
    place = options.out / f"one-threshold.{budget:g}.json"
    if place.exists():
        return json.loads(place.read_text())
    low, high = 0.0, 1.0
    for _ in range(10):
        tail = (low + high) / 2
        told = choir(options, "eval", model, "--skip", f"tail={tail}", "--text", options.out / "calibrate-mixed.txt",
                     "--context", 128)
        low, high = (low, tail) if told["skipped_share"] > 1 - budget else (tail, high)
    place.write_text(json.dumps(low))
    return low


class Row:
    """A model and how it skips: by its own policy, or by a word in its place."""

    def __init__(self, name, model, word=None):
        self.name, self.model, self.word = name, model, ["--skip", word] if word else []
        self.rates = []

    def measure(self, options):
        place = options.out / f"{self.name.replace(', ', '-').replace(' ', '_')}.skipping.json"
        if place.exists():
            self.found = json.loads(place.read_text())
            return
        self.found = {domain: choir(options, "eval", self.model, *self.word, "--against", options.model, "--text",
                                    text(options, domain), "--context", 128) for domain in DOMAINS}
        place.write_text(json.dumps(self.found))

    def time(self, options):
        prompt = text(options, DOMAINS[0]).read_text()[:200]
        told = choir(options, "generate", self.model, *self.word, "--prompt", prompt, "-n", 180, "--ignore-end")
        self.rates.append(told["tokens_per_second"])


def skipped(options, name, model, budget, more=()):
    """The model with a policy of this budget, made once; no budget: medians."""
    out = options.out / f"{name.replace(', ', '-').replace(' ', '_')}.skip"
    if not (out / "config.json").exists():
        words = ["--budget", budget, *more] if budget else []
        report = choir(options, "skip", model, "--out", out, *words, *calibration(options), "--seed", options.seed)
        out.with_name(out.name + ".report.json").write_text(json.dumps(report))
    return Row(name, out)


def rows_of(options):
    full = options.model
    rows = [Row("full", full)]
    if options.top_k == 2:
        rows.append(skipped(options, "medians", full, None))
    for budget in options.budgets:
        at = f"skip {budget:g}"
        rows.append(Row(f"{at}, one threshold", full, f"tail={one_threshold(options, full, budget)}"))
        rows.append(skipped(options, f"{at}, own gains", full, budget, ["--own-gains"]))
        rows.append(skipped(options, f"{at}", full, budget))
        rows.append(skipped(options, f"{at}, judged", full, budget, ["--hold-out", 0.1]))
    for keep in options.keep:
        pruned = options.out / f"search-shared.{keep}.mixed.1"
        rows.append(Row(f"keep {keep}", pruned))
        if options.top_k == 2:
            rows.append(skipped(options, f"keep {keep}, medians", pruned, None))
        for budget in options.budgets:
            rows.append(skipped(options, f"keep {keep}, skip {budget:g}, judged", pruned, budget, ["--hold-out", 0.1]))
    return rows


def line(row, full):
    found = row.found
    run = sum(layer["experts_run"] for one in found.values() for layer in one["layers"])
    left = sum(layer["experts_skipped"] for one in found.values() for layer in one["layers"])
    cells = [row.name, f"{100 * left / (run + left):.1f} %", f"{statistics.mean(one['bytes_per_token'] for one in found.values()) / 1e6:.2f}",
             f"{statistics.mean(one['kl_mean'] for one in found.values()):.4f}",
             *(f"{one['perplexity']:.1f}" for one in found.values())]
    if row.rates:
        ratio = statistics.median(rate / other for rate, other in zip(row.rates, full.rates))
        cells += [f"{statistics.median(row.rates):.0f}", f"{ratio:.2f}"]
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for argument in ("choir", "model", "data", "out"):
        parser.add_argument(argument, type=pathlib.Path)
    parser.add_argument("--keep", type=int, nargs="*", default=[6, 4])
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.9, 0.75, 0.6])
    parser.add_argument("--characters", type=int, default=12000)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.top_k = json.loads((options.model / "config.json").read_text())["num_experts_per_tok"]
    study.write_texts(options)
    rows = rows_of(options)
    for row in rows:
        row.measure(options)
    for number in range(options.rounds + 1 if options.rounds else 0):
        for row in rows:
            row.time(options)
            row.rates = row.rates if number else []  # the first round is not counted
    head = ["model", "skipped", "MB a token", "KL", *(f"perplexity {domain}" for domain in DOMAINS)]
    head += ["tokens/s", "speedup"] if options.rounds else []
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print(line(row, rows[0]))


if __name__ == "__main__":
    main()
