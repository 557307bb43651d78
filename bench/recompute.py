"""Time and memory of training steps that keep all activations and of steps that compute blocks once more, in turn.

recompute.py --choir PROGRAM [PROGRAM ...] [--routers mixtral etr] [--recompute none block] [--rounds R] ...

The shape of training.py, on random text; prints CSV. Several programs are compared as well: before and after a change.
step_seconds is the median of a run's steps behind the warm-up, least_seconds the least of them, which other work on the
machine disturbs less; cpu_seconds is processor time of the whole run; peak_mb the most memory of the process, planned_mb
what run.json says.
"""
import argparse
import json
import os
import pathlib
import resource
import statistics
import sys
import tempfile

import training

COLUMNS = ("kind", "program", "router", "recompute", "round", "step_seconds", "least_seconds", "percent_of_peak",
           "cpu_seconds", "peak_mb", "planned_mb", "loss_last")
DIGITS = {"step_seconds": 4, "least_seconds": 4, "percent_of_peak": 1, "cpu_seconds": 2, "peak_mb": 0, "planned_mb": 0,
          "loss_last": 6}


def processor_time():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Memory(training.Bench):
    def measure(self, program, router, recompute):
        self.args.choir = program
        config = self.config(router, self.args.warmup + self.args.steps, {"path": "tokenizer.json"})
        if recompute != "none":
            config["recompute"] = recompute
        before = processor_time()
        lines, _, _ = self.train(config)
        timed = lines[self.args.warmup:]
        row = {"step_seconds": statistics.median(line["seconds"] for line in timed),
               "least_seconds": min(line["seconds"] for line in timed),
               "percent_of_peak": 100 * statistics.median(line["share_of_peak"] for line in timed),
               "cpu_seconds": processor_time() - before, "peak_mb": lines[-1]["peak_memory"] / 2**20,
               "loss_last": lines[-1]["loss"]}
        if "memory" in self.about:
            row["planned_mb"] = sum(self.about["memory"].values()) / 2**20
        return row


def show(kind, key, number, row):
    cells = (kind, *key, number, *(f"{row[name]:.{digits}f}" if name in row else "" for name, digits in DIGITS.items()))
    print(",".join(str(cell) for cell in cells), flush=True)


def main():
    parser = argparse.ArgumentParser(description="Training steps that compute blocks once more; prints CSV.")
    parser.add_argument("--choir", required=True, nargs="+", type=pathlib.Path, help="the program, or several")
    parser.add_argument("--routers", nargs="+", choices=sorted(training.LOAD_WEIGHT), default=["mixtral", "etr"])
    parser.add_argument("--recompute", nargs="+", choices=("none", "block"), default=["none", "block"])
    for name, value in {**training.SHAPE, "vocab": 8192, "rounds": 5, "steps": 5, "warmup": 2,
                        "threads": os.cpu_count(), "seed": 1}.items():
        parser.add_argument("--" + name, type=int, default=value, help=f"default {value}")
    args = parser.parse_args()
    programs = [path.resolve() for path in args.choir]
    args.choir = programs[0]
    try:
        with tempfile.TemporaryDirectory() as folder:
            bench = Memory(args, pathlib.Path(folder))
            print(",".join(COLUMNS), flush=True)
            cases = [(p, r, c) for r in args.routers for p in programs for c in args.recompute]
            rows = {case: [] for case in cases}
            for number in range(args.rounds):
                for case in cases if number % 2 == 0 else reversed(cases):
                    rows[case].append(bench.measure(*case))
                    show("run", (case[0].name, *case[1:]), number, rows[case][-1])
            for case in cases:
                names = rows[case][0]
                show("median", (case[0].name, *case[1:]), "",
                     {name: statistics.median(row[name] for row in rows[case]) for name in names})
    except training.Failure as failure:
        print(f"recompute.py: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
