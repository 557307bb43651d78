"""Shrinks a model for three kinds of text in three ways, measures every result on all three, and shows it.

demo.py [--choir PROGRAM] [--model DIR] [--out DIR]

OUT gets texts/, models/, results.json and index.html, a page that needs nothing else.
"""
import argparse
import json
import pathlib
import shlex
import statistics
import subprocess
import sys
import time

import demo_page
import demo_report
import demo_texts

ROOT = pathlib.Path(__file__).resolve().parent.parent
SEED = 1
LENGTH = 256  # tokens of a calibration block, and of a window that is measured
ROUNDS = 5  # of timing
TIMED_TOKENS = 400
SHOWN_TOKENS = 60
PROMPTS = {"prose": "This document describes", "code": "static int find(const std::vector<int>& values",
           "problems": "Question: Anna has 12 apples. Ben gives Anna 5 more. How many apples does Anna have now?\n"
                       "Answer:"}


class Failure(Exception):
    pass


def choir(program, *words):
    """Runs one verb and returns the JSON it prints."""
    command = [str(word) for word in (program, *words, "--json")]
    shown = shlex.join([pathlib.Path(command[0]).name, *command[1:]])
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise Failure(f"{shown}: {error.strerror}") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode} without a word"]
        raise Failure(f"{shown}: {lines[-1]}")
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise Failure(f"{shown}: its output is not one JSON object: {done.stdout[:80]!r}") from None


def say(step, start):
    print(f"{step}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)


class Demo:
    def __init__(self, program, model, out):
        self.program, self.model, self.out = program, model, out
        self.results = {"model": model.name, "rows": [], "load": {}, "prune": {}, "samples": []}

    def step(self, name, *words):
        start = time.monotonic()
        answer = choir(self.program, *words)
        say(name, start)
        return answer

    def text(self, kind, part):
        return self.out / "texts" / f"{kind}.{part}.txt"

    def write_texts(self):
        (self.out / "texts").mkdir(parents=True, exist_ok=True)
        for kind, parts in demo_texts.all_texts(ROOT, SEED).items():
            for part, pieces in zip(("calibrate", "measure"), parts):
                self.text(kind, part).write_text("".join(pieces), encoding="utf-8")

    def look_at_full_model(self):
        layers = choir(self.program, "inspect", self.model)["layers"]
        experts = layers[0]["experts"]
        if any(layer["experts"] != experts or layer["top_k"] != 2 for layer in layers) or experts < 4:
            raise Failure(f"{self.model}: wanted a whole model, top-2 of at least 4 experts in every layer")
        self.results |= {"experts": experts, "layers": len(layers), "keeps": [experts * 3 // 4, experts // 2]}
        self.add_row("full", None, self.model)
        for kind in PROMPTS:
            measured = self.step(f"full model on {kind}", "eval", self.model, "--text", self.text(kind, "measure"),
                                 "--context", LENGTH)
            self.results["load"][kind] = measured["load"]
            self.results["rows"][0]["perplexity"][kind] = measured["perplexity"]

    def add_row(self, variant, kind, path):
        self.results["rows"].append({"variant": variant, "kind": kind, "path": str(path), "perplexity": {}, "kl": {}})

    def shrink(self, kind):
        options = ["--calibrate", self.text(kind, "calibrate"), "--length", LENGTH, "--batch", 8, "--force"]
        at = {}
        for keep in self.results["keeps"]:
            variant = f"keep {keep}"
            at[variant] = self.out / "models" / f"{kind}-keep-{keep}"
            done = self.step(f"{variant} experts for {kind}", "prune", self.model, "--out", at[variant], "--keep", keep,
                             "--all-losses", *options)
            self.results["prune"].setdefault(kind, {})[str(keep)] = done["layers"]
        pruned = next(iter(at.values()))
        for variant, source in (("skipping", self.model), ("both", pruned)):
            at[variant] = self.out / "models" / f"{kind}-{variant}"
            self.step(f"{variant} for {kind}", "skip", source, "--out", at[variant], *options)
        for variant, path in at.items():
            self.add_row(variant, kind, path)

    def measure(self, row):
        path, own = row["path"], row["kind"]
        shape = choir(self.program, "inspect", path)
        row["bytes"] = (pathlib.Path(path) / "model.safetensors").stat().st_size
        row["active"] = shape["active_parameters"]
        if own is None:
            return
        for kind in PROMPTS:
            answer = self.step(f"{row['variant']} for {own}, on {kind}", "eval", self.model, "--against", path,
                               "--text", self.text(kind, "measure"), "--context", LENGTH)
            row["perplexity"][kind], row["kl"][kind] = answer["perplexity_other"], answer["kl_mean"]
        if any("skip_beta" in layer for layer in shape["layers"]):
            self.count_skipped(row, shape)

    def count_skipped(self, row, shape):
        """Active parameters are then a mean over the tokens of the kind calibrated on."""
        share = choir(self.program, "eval", row["path"], "--text", self.text(row["kind"], "measure"), "--context",
                      LENGTH)["skipped_share"]
        width = json.loads((pathlib.Path(row["path"]) / "config.json").read_text())["hidden_size"]
        experts = sum(layer["top_k"] * 3 * width * layer["expert_width"] for layer in shape["layers"])
        row["skipped"] = share
        row["active"] -= share * experts

    def time_all(self):
        """Rounds over all models, so that what disturbs the machine for a while disturbs all of them."""
        speeds = [[] for _ in self.results["rows"]]
        for turn in range(ROUNDS):
            start = time.monotonic()
            for row, found in zip(self.results["rows"], speeds):
                answer = choir(self.program, "generate", row["path"], "--prompt", PROMPTS["prose"], "-n", TIMED_TOKENS,
                               "--ignore-end")
                found.append(answer["tokens_per_second"])
            say(f"timing, round {turn + 1} of {ROUNDS}", start)
        for row, found in zip(self.results["rows"], speeds):
            row["tokens_per_second"] = statistics.median(found)

    def speak(self):
        for kind, prompt in PROMPTS.items():
            for row in self.results["rows"]:
                if row["kind"] not in (None, kind):
                    continue
                answer = choir(self.program, "generate", row["path"], "--prompt", prompt, "-n", SHOWN_TOKENS,
                               "--temperature", 0.7, "--seed", SEED)
                self.results["samples"].append(
                    {"kind": kind, "variant": row["variant"], "prompt": prompt, "text": answer["text"]})

    def run(self):
        self.write_texts()
        (self.out / "models").mkdir(exist_ok=True)
        self.look_at_full_model()
        for kind in PROMPTS:
            self.shrink(kind)
        for row in self.results["rows"]:
            self.measure(row)
        self.time_all()
        self.speak()
        (self.out / "results.json").write_text(json.dumps(self.results, indent=1), encoding="utf-8")
        (self.out / "index.html").write_text(demo_page.page(self.results), encoding="utf-8")
        print(demo_report.report(self.results))
        print(f"models: {self.out / 'models'}\nthe same with pictures: {self.out / 'index.html'}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--choir", type=pathlib.Path, default=ROOT / "build/release/choir")
    arguments.add_argument("--model", type=pathlib.Path, default=ROOT / "models/choir-tiny")
    arguments.add_argument("--out", type=pathlib.Path, default=ROOT / "demo-output")
    asked = arguments.parse_args()
    try:
        Demo(asked.choir, asked.model, asked.out).run()
    except (Failure, OSError) as failure:
        sys.exit(f"demo: {failure}")
    except KeyError as missing:
        sys.exit(f"demo: {asked.choir} left out {missing} in its answer: is it an older build?")
    except KeyboardInterrupt:
        sys.exit("demo: interrupted")


if __name__ == "__main__":
    main()
