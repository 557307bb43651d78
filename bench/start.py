"""How long it takes from starting `choir generate` to its first token; prints CSV and medians.

start.py MODEL --choir PROGRAM [--rounds R] [--cold]

Each round reads the file once, so that it lies in the page cache, and starts the program. With --cold it then empties
the page cache (as root, /proc/sys/vm/drop_caches), reads the file from beginning to end, empties it again and starts
the program.
"""
import argparse
import pathlib
import statistics
import subprocess
import sys
import time

DROP = pathlib.Path("/proc/sys/vm/drop_caches")


def read_whole(model):
    piece = bytearray(1 << 24)
    with open(model, "rb", buffering=0) as file:
        while file.readinto(piece):
            pass


def first_token(args):
    command = [args.choir, "generate", args.model, "--ids", "5,6,7,8", "-n", "1", "--ignore-end", "--json", "--threads",
               str(args.threads)]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


def seconds_of(work, prepare):
    prepare()
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description="Time from the start of choir generate to its first token.")
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--choir", required=True, type=pathlib.Path, help="the program")
    parser.add_argument("--cold", action="store_true", help="also with an empty page cache; as root")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    read, start, drop = (lambda: read_whole(args.model)), (lambda: first_token(args)), (lambda: DROP.write_text("1"))
    works = {"cached start": (start, read)}
    if args.cold:
        works.update({"cold read": (read, drop), "cold start": (start, drop)})
    seconds = {name: [] for name in works}
    print("model,what,round,seconds")
    for number in range(args.rounds):
        for name, (work, prepare) in works.items():
            seconds[name].append(seconds_of(work, prepare))
            print(f"{args.model.stem},{name},{number},{seconds[name][-1]:.3f}", flush=True)
    for name, measured in seconds.items():
        print(f"{args.model.stem},{name},median,{statistics.median(measured):.3f}")
    if args.cold:
        ratio = statistics.median(s / r for s, r in zip(seconds["cold start"], seconds["cold read"]))
        print(f"{args.model.stem},cold start / cold read,median,{ratio:.2f}")


if __name__ == "__main__":
    sys.exit(main())
