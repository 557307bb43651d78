"""How long it takes from starting `choir generate` to its first token and to its last; prints CSV and medians.

start.py MODEL... --choir PROGRAM [--tokens N] [--rounds R] [--cold]

Each round reads a file once, so that it lies in the page cache, and starts the program: one token unless --tokens says
more. Several models take turns. MB are the process's own memory at most, without what it sees of the page cache. With
--cold it then empties the page cache (as root, /proc/sys/vm/drop_caches), reads the file from beginning to end, empties
it again and starts the program.
"""
import argparse
import pathlib
import re
import statistics
import subprocess
import sys
import time

DROP = pathlib.Path("/proc/sys/vm/drop_caches")


def read_whole(model):
    piece = bytearray(1 << 24)
    with open(model / "model.safetensors" if model.is_dir() else model, "rb", buffering=0) as file:
        while file.readinto(piece):
            pass


def own_memory(process):
    try:
        found = re.search(r"RssAnon:\s+(\d+) kB", pathlib.Path(f"/proc/{process.pid}/status").read_text())
    except OSError:
        found = None
    return int(found[1]) * 1024 / 1e6 if found else 0


def generate(args, model):
    """Seconds to the first token and to the end, and megabytes."""
    command = [args.choir, "generate", model, "--ids", "5,6,7,8", "-n", args.tokens, "--ignore-end", "--threads",
               args.threads]
    begin, first, memory = time.perf_counter(), None, 0
    words = [str(word) for word in command]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        while process.stdout.read1(4096):
            first = first or time.perf_counter() - begin
            memory = max(memory, own_memory(process))
    if process.returncode:
        sys.exit(f"{command} failed")
    return first, time.perf_counter() - begin, memory


def seconds_of_reading(model):
    begin = time.perf_counter()
    read_whole(model)
    return time.perf_counter() - begin


class Table:
    def __init__(self):
        self.seconds = {}
        print("model,what,round,number")

    def add(self, model, what, number):
        values = self.seconds.setdefault((model.stem, what), [])
        values.append(number)
        print(f"{model.stem},{what},{len(values) - 1},{number:.3f}", flush=True)

    def add_start(self, args, model, name):
        first, end, memory = generate(args, model)
        self.add(model, f"{name} start", first)
        if args.tokens > 1:
            self.add(model, f"{name} {args.tokens} tokens", end)
            self.add(model, f"{name} MB", memory)

    def print_medians(self):
        for (model, what), values in self.seconds.items():
            print(f"{model},{what},median,{statistics.median(values):.3f}")
            if what == "cold start":
                reads = self.seconds[model, "cold read"]
                print(f"{model},cold start / cold read,median,"
                      f"{statistics.median(s / r for s, r in zip(values, reads)):.2f}")


def main():
    parser = argparse.ArgumentParser(description="Time from the start of choir generate to its tokens.")
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--choir", required=True, type=pathlib.Path, help="the program")
    parser.add_argument("--cold", action="store_true", help="also with an empty page cache; as root")
    parser.add_argument("--tokens", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    table = Table()
    for _ in range(args.rounds):
        for model in args.models:
            read_whole(model)
            table.add_start(args, model, "cached")
            if args.cold:
                DROP.write_text("1")
                table.add(model, "cold read", seconds_of_reading(model))
                DROP.write_text("1")
                table.add_start(args, model, "cold")
    table.print_medians()


if __name__ == "__main__":
    sys.exit(main())
