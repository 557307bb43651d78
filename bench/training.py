"""Times training steps of `choir train` against the peer in PyTorch, in turn, and prints CSV.

training.py --choir PROGRAM [--python PYTHON] [--routers mixtral etr] [--dtypes float32 bfloat16] [--rounds R] ...

Both train the same shape on random text. The peer runs with the settings that are fair to it; of these, what already
stands in the environment is left as it is, but for OpenBLAS's kernels, which a cautious environment sets too low.
peers/README.md says what the columns mean.
"""
import argparse
import ctypes
import json
import os
import pathlib
import random
import re
import shlex
import statistics
import subprocess
import sys
import tempfile

PEER = pathlib.Path(__file__).resolve().parent / "peers" / "train_step.py"
# The peer's router exactly: no centring, and a capacity that settles within the warm-up as the peer's does.
EXPRESSIONS = {"etr": "grap_cosine > top_k(1) > top_capacity(etr_sum(decay=0.3)) > softmax + load(0.01)"}
LOAD_WEIGHT = {"mixtral": 0.02, "switch": 0.01, "etr": 0.01}
SHAPE = {"layers": 6, "width": 256, "heads": 4, "experts": 8, "expert-width": 1024, "sequence": 256, "batch": 16}
COLUMNS = ("kind", "router", "engine", "round", "tokens_per_second", "step_seconds", "peak_gflops", "percent_of_peak",
           "processed_share", "max_over_mean_load", "loss_first", "loss_last")
# Blocks of any size stay with the process and lie in huge pages; else each step faults its memory in again.
MALLOC = ("glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:"
          "glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=67108864")


class Failure(Exception):
    pass


def run(command, **options):
    command = [str(word) for word in command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", **options)
    except OSError as error:
        raise Failure(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise Failure(f"{shlex.join(command)}: {lines[-1]}")
    return done


def openblas_folder():
    """Where OpenBLAS with OpenMP lies, next to the BLAS that the loader finds; None if it is not there."""
    for name in ("libopenblas.so.0", "libblas.so.3"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
    with open("/proc/self/maps") as maps:
        found = {pathlib.Path(line.split()[-1]) for line in maps if "blas" in line.split()[-1].rsplit("/", 1)[-1]}
    for path in sorted(found):
        for folder in (path.parent, path.parent.parent):
            if (folder / "openblas-openmp" / "libblas.so.3").exists():
                return folder / "openblas-openmp"
    return None


def core_type():
    """OpenBLAS of 2022 does not know newer processors and falls back to SSE: it is told by their instructions."""
    flags = set(re.search(r"^flags\s*:(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)[1].split())
    for flag, core in (("avx512_bf16", "Cooperlake"), ("avx512dq", "SkylakeX"), ("avx2", "Haswell")):
        if flag in flags:
            return core
    return None


def peer_environment(threads):
    """What is set for the peer on top of the environment, and the whole."""
    wanted = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", "OPENBLAS_CORETYPE": core_type(),
              "GLIBC_TUNABLES": MALLOC}
    added = {key: value for key, value in wanted.items() if value and (key not in os.environ or key.startswith("OPENBLAS"))}
    folder = openblas_folder()
    if folder:
        added["LD_LIBRARY_PATH"] = ":".join(filter(None, (str(folder), os.environ.get("LD_LIBRARY_PATH"))))
    return added, {**os.environ, **added}


def write_text(path, rng, words):
    """Words drawn evenly from a made-up lexicon: nearly every token is about equally frequent, as in the peer's."""
    lexicon = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 7))) for _ in range(6000)]
    path.write_text("".join(" ".join(rng.choices(lexicon, k=500)) + "\n" for _ in range(words // 500)))


class Bench:
    def __init__(self, args, place):
        self.args, self.place = args, place
        self.shape = {key: getattr(args, key.replace("-", "_")) for key in SHAPE}
        self.added, self.environment = peer_environment(args.threads)
        self.blas = None
        write_text(place / "text.txt", random.Random(args.seed), 400_000)
        self.learn_tokenizer()

    def config(self, router, steps, tokenizer):
        shape = self.shape
        model = {"model_type": "mixtral", "hidden_size": shape["width"], "intermediate_size": shape["expert-width"],
                 "num_hidden_layers": shape["layers"], "num_attention_heads": shape["heads"],
                 "num_key_value_heads": shape["heads"], "num_local_experts": shape["experts"],
                 "num_experts_per_tok": 2 if router == "mixtral" else 1, "max_position_embeddings": shape["sequence"],
                 "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "router_aux_loss_coef": LOAD_WEIGHT[router],
                 "sliding_window": None, "tie_word_embeddings": False, "hidden_act": "silu"}
        training = {"steps": steps, "warmup_steps": 0, "batch_size": shape["batch"],
                    "sequence_length": shape["sequence"], "learning_rate": 1e-5, "min_learning_rate": 1e-5,
                    "weight_decay": 0.1, "gradient_clip": 1.0, "checkpoint_every": steps + 1, "seed": self.args.seed}
        config = {"model": model, "tokenizer": tokenizer, "data": [{"name": "text", "files": ["text.txt"]}],
                  "training": training, "dtype": "float32"}
        if router != "mixtral":
            config["router"] = EXPRESSIONS.get(router, router)
        return config

    def train(self, config):
        """Lines of metrics, what the run said, and its tokenizer."""
        with tempfile.TemporaryDirectory(dir=self.place) as folder:
            path, out = pathlib.Path(folder) / "train.json", pathlib.Path(folder) / "run"
            path.write_text(json.dumps(config))
            done = run([self.args.choir, "train", "--config", path, "--data", self.place, "--out", out, "--json",
                        "--threads", self.args.threads])
            lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
            self.about = json.loads((out / "run.json").read_text())
            return lines, done.stderr, (out / "tokenizer.json").read_text()

    def learn_tokenizer(self):
        config = self.config("mixtral", 1, {"vocab_size": self.args.vocab})
        config["model"].update(num_hidden_layers=1, intermediate_size=16)
        config["training"]["batch_size"] = 1
        _, said, tokenizer = self.train(config)
        (self.place / "tokenizer.json").write_text(tokenizer)
        self.vocab = int(re.search(r"vocabulary (\d+)", said)[1])

    def choir(self, router, dtype):
        args = self.args
        config = self.config(router, args.warmup + args.steps, {"path": "tokenizer.json"})
        lines, said, _ = self.train(config | {"precision": dtype})
        timed = lines[args.warmup:]
        peak = float(re.search(r"(\d+) GFLOP/s of multiply-adds", said)[1])
        seconds = statistics.median(line["seconds"] for line in timed)
        flops = timed[0]["share_of_peak"] * peak / timed[0]["tokens_per_second"]  # of a token, in 1e9
        row = {"seconds": seconds, "peak": peak, "flops": flops, "loss_first": lines[0]["loss"],
               "loss_last": lines[-1]["loss"],
               "load": statistics.mean(line["max_over_mean_load"] for line in timed)}
        if "processed_share" in timed[0]:
            row["processed"] = statistics.mean(line["processed_share"] for line in timed)
        return row

    def torch(self, router, dtype):
        args = self.args
        words = [word for key, value in self.shape.items() for word in ("--" + key, value)]
        done = run([args.python, PEER, *words, "--vocab", self.vocab, "--router", router, "--dtype", dtype, "--steps",
                    args.steps, "--warmup", args.warmup, "--threads", args.threads, "--seed", args.seed],
                   env=self.environment)
        report = json.loads(done.stdout)
        self.blas = f"torch {report['torch']}, {report['blas']}"
        return {"seconds": statistics.median(report["step_seconds"]), "processed": report["processed_share"],
                "load": report["max_over_mean_load"], "loss_first": report["loss_first"],
                "loss_last": report["loss_last"]}

    def round(self, router, number):
        """Every engine once; each round begins with another."""
        engines = [f"{engine} {dtype}" for engine in ("choir", "torch") for dtype in self.args.dtypes]
        begin = number % len(engines)
        rows = {}
        for engine in engines[begin:] + engines[:begin]:
            name, dtype = engine.split()
            rows[engine] = self.choir(router, dtype) if name == "choir" else self.torch(router, dtype)
        first = rows[engines[0]]
        for row in rows.values():
            row["tokens"] = self.shape["batch"] * self.shape["sequence"] / row["seconds"]
            row["peak"] = first["peak"]
            row["percent"] = 100 * row["tokens"] * first["flops"] / row["peak"]
        return rows


def show(kind, router, engine, number, row):
    def number_of(key, digits):
        return f"{row[key]:.{digits}f}" if key in row else ""

    cells = (kind, router, engine, number, number_of("tokens", 0), number_of("seconds", 4), number_of("peak", 0),
             number_of("percent", 1), number_of("processed", 3), number_of("load", 2), number_of("loss_first", 4),
             number_of("loss_last", 4))
    print(",".join(str(cell) for cell in cells), flush=True)


def measure(bench, router):
    rounds = []
    for number in range(bench.args.rounds):
        rounds.append(bench.round(router, number))
        for engine, row in rounds[-1].items():
            show("run", router, engine, number, row)
    for engine in rounds[0]:
        rows = [r[engine] for r in rounds]
        show("median", router, engine, "", {key: statistics.median(row[key] for row in rows) for key in rows[0]})
    for ours in (engine for engine in rounds[0] if engine.startswith("choir")):
        for theirs in (engine for engine in rounds[0] if engine.startswith("torch")):
            ratio = statistics.median(r[ours]["tokens"] / r[theirs]["tokens"] for r in rounds)
            print(f"ratio,{router},{ours} / {theirs},,{ratio:.2f}" + "," * (len(COLUMNS) - 5), flush=True)


def main():
    parser = argparse.ArgumentParser(description="Times training steps of choir against PyTorch, in turn; prints CSV.")
    parser.add_argument("--choir", required=True, type=pathlib.Path, help="the program")
    parser.add_argument("--python", default=sys.executable, help="one that has torch; default the one that runs this")
    parser.add_argument("--routers", nargs="+", choices=sorted(LOAD_WEIGHT), default=["mixtral", "etr"])
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"],
                        help="of the products of both")
    for name, value in {**SHAPE, "vocab": 8192, "rounds": 5, "steps": 5, "warmup": 2,
                        "threads": os.cpu_count(), "seed": 1}.items():
        parser.add_argument("--" + name, type=int, default=value, help=f"default {value}")
    args = parser.parse_args()
    args.choir = args.choir.resolve()
    try:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(args, pathlib.Path(folder))
            shape = ", ".join(f"{key} {value}" for key, value in bench.shape.items())
            print(f"# {shape}, vocabulary {bench.vocab}, threads {args.threads}; {args.rounds} rounds of {args.steps} "
                  f"steps after {args.warmup} of warm-up")
            print("# peer: " + " ".join(f"{key}={value}" for key, value in bench.added.items()))
            print(",".join(COLUMNS), flush=True)
            for router in args.routers:
                measure(bench, router)
            print(f"# peer: {bench.blas}")
    except Failure as failure:
        print(f"training.py: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
