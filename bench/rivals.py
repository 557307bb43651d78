"""Speed of `choir bench` beside llama.cpp and its relatives on the same GGUF files, in turn; prints ratios, keeps CSV.

rivals.py MODEL... --choir PROGRAM --ceilings bench_ceilings --csv FILE
          [--llama-bench "LABEL=PROGRAM FLAGS"]... [--llama-cpp FOLDER] [--rounds R] ...

In each round every engine runs once, and each round begins with another. Before each engine what the machine can do at
that moment is measured. Rounds are added to those that FILE holds, so that a long measurement can be made in pieces;
the table that is printed is over all of them. peers/README.md says which flags are fair to whom.
"""
import argparse
import csv
import json
import pathlib
import shlex
import statistics
import subprocess
import sys

LIBRARY_PEER = pathlib.Path(__file__).resolve().parent / "peers" / "llama_cpp.py"
SPEEDS = ("prefill", "decode")
CEILINGS = ("flops", "byte_operations", "read_bytes")
OF_CHOIR = ("bytes_per_token", "busiest_over_even")
COLUMNS = ("model", "round", "engine", *SPEEDS, *OF_CHOIR, *CEILINGS)


class Failure(Exception):
    pass


def run(command):
    command = [str(word) for word in command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise Failure(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise Failure(f"{shlex.join(command)}: {lines[-1]}")
    return done.stdout


def choir_speed(program, args, model):
    """Decoding begins behind one token, not behind the prompt, as in the peers."""
    def report(prefill, decode):
        return json.loads(run([program, "bench", model, "--prefill", prefill, "--decode", decode, "--threads",
                               args.threads, "--repeats", 3, "--json"]))
    read, decoded = report(args.prefill, 1), report(1, args.decode)
    return {"prefill": read["prefill_tokens_per_second"], "decode": decoded["decode_tokens_per_second"],
            "bytes_per_token": decoded["bytes_per_token"],
            "busiest_over_even": read["busiest_expert_share"] / read["even_share"]}


def llama_bench_speed(program, flags, args, model):
    tests = json.loads(run([program, "-m", model, "-p", args.prefill, "-n", args.decode, "-t", args.threads, "-r", 1,
                            "-o", "json", *flags]))
    return {"prefill" if test["n_gen"] == 0 else "decode": test["avg_ts"] for test in tests}


def library_speed(args, model):
    return json.loads(run([sys.executable, LIBRARY_PEER, args.llama_cpp, model, args.prefill, args.decode,
                           args.threads]))


def engines_of(args):
    """Name to a function of a model's path. The first is Choir."""
    engines = {"choir": lambda model: choir_speed(args.choir, args, model)}
    for text in args.llama_bench:
        label, _, command = text.partition("=")
        program, *flags = shlex.split(command) or [""]
        if not label or not program:
            raise Failure(f'--llama-bench "{text}": it is LABEL=PROGRAM FLAGS')
        engines[label] = lambda model, program=program, flags=flags: llama_bench_speed(program, flags, args, model)
    if args.llama_cpp:
        engines["llama.cpp"] = lambda model: library_speed(args, model)
    return engines


def read_rows(path):
    if not path.exists():
        return []
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["round"] = int(row["round"])
        row.update((key, float(row[key])) for key in (*SPEEDS, *CEILINGS, *OF_CHOIR) if row[key])
    return rows


def add_row(path, row):
    begins = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        if begins:
            writer.writeheader()
        writer.writerow({key: f"{cell:.5g}" if isinstance(cell, float) else cell for key, cell in row.items()})


def warm(model):
    """Into the page cache, for speed is asked about and not the disk."""
    with open(model, "rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def measure_round(args, engines, model, number):
    names = list(engines)
    begin = number % len(names)
    for name in names[begin:] + names[:begin]:
        warm(model)
        ceilings = json.loads(run([args.ceilings, args.threads]))
        row = {"model": model.stem, "round": number, "engine": name, **engines[name](model),
               **{key: ceilings[key] for key in CEILINGS}}
        add_row(args.csv, row)
        print(f"{model.stem} {number} {name}: " + ", ".join(f"{key} {row[key]:.4g}" for key in SPEEDS), file=sys.stderr)


def rounds_of(rows, model, engines):
    """Rounds in which every engine of the model has a row: dictionaries from engine to row."""
    rounds = {}
    for row in rows:
        if row["model"] == model:
            rounds.setdefault(row["round"], {})[row["engine"]] = row
    return [r for r in rounds.values() if all(name in r for name in engines)]


def summary(rows, model, engines):
    """A line for each engine: medians, Choir's ratio to it, and shares of what the machine could do beside it."""
    rounds = rounds_of(rows, model, engines)
    for name in engines if rounds else []:
        mine = [r[name] for r in rounds]
        line = {"model": model, "engine": name, "rounds": len(rounds)}
        for key in SPEEDS:
            line[key] = statistics.median(row[key] for row in mine)
            line[key + " ratio"] = statistics.median(r["choir"][key] / r[name][key] for r in rounds)
        line["% of read"] = statistics.median(100 * r[name]["decode"] * r["choir"]["bytes_per_token"] /
                                              r[name]["read_bytes"] for r in rounds)
        line["busiest"] = statistics.median(r["choir"]["busiest_over_even"] for r in rounds)
        line["GFLOP/s"] = statistics.median(row["flops"] for row in mine) / 1e9
        line["GB/s"] = statistics.median(row["read_bytes"] for row in mine) / 1e9
        yield line


def cell_of(item):
    if not isinstance(item, float):
        return item
    return f"{item:.3g}" if item < 100 else f"{item:.0f}"


def show(lines):
    if lines:
        print("| " + " | ".join(lines[0]) + " |\n|" + "---|" * len(lines[0]))
    for line in lines:
        print("| " + " | ".join(str(cell_of(item)) for item in line.values()) + " |")


def main():
    parser = argparse.ArgumentParser(description="Speed of choir and of llama.cpp's family on GGUF files, in turn.")
    parser.add_argument("models", nargs="+", type=pathlib.Path, metavar="MODEL")
    parser.add_argument("--choir", required=True, help="the program")
    parser.add_argument("--ceilings", required=True, help="the program bench_ceilings")
    parser.add_argument("--csv", required=True, type=pathlib.Path, help="rows are added to it")
    parser.add_argument("--llama-bench", action="append", default=[], metavar="LABEL=PROGRAM FLAGS")
    parser.add_argument("--llama-cpp", metavar="FOLDER",
                        help="where its library lies, as in the npm package node-llama-cpp")
    for name, number in {"rounds": 5, "prefill": 512, "decode": 64, "threads": 2}.items():
        parser.add_argument("--" + name, type=int, default=number, help=f"default {number}")
    args = parser.parse_args()
    try:
        engines = engines_of(args)
        for model in args.models:
            done = [row["round"] for row in read_rows(args.csv) if row["model"] == model.stem]
            first = max(done, default=-1) + 1
            for number in range(first, first + args.rounds):
                measure_round(args, engines, model, number)
        rows = read_rows(args.csv)
        show([line for model in args.models for line in summary(rows, model.stem, engines)])
    except Failure as failure:
        print(f"rivals.py: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
