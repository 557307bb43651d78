"""Trains the same small model with many routers and prints the tables of docs/results/etr.md.

router_study.py train CHOIR DATA OUT [--seeds 1 2] [--steps N] [--jobs J] [--only WORD...] [--size small|large]
router_study.py table OUT
router_study.py time CHOIR DATA OUT [--rounds R] [--steps N] [--only WORD...] [--size small|large]

DATA is what tools/prepare_text.py wrote. A run that is finished is not made again, one that was cut off goes on. Each run
of `train` has one thread, so that J of them share the machine; its seconds mean nothing. `time` begins with the models
of seed 1, whose loads are even by then, where they are in OUT, and makes N steps with all threads, all routers in turn,
R times over, on a machine that is left alone.
"""
import argparse
import concurrent.futures
import json
import pathlib
import shutil
import statistics
import subprocess
import tempfile

MODEL = {"model_type": "mixtral", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4,
         "num_attention_heads": 4, "num_key_value_heads": 4, "num_local_experts": 8, "num_experts_per_tok": 1,
         "max_position_embeddings": 256, "rope_theta": 10000.0, "rms_norm_eps": 1e-5}
SIZES = {"small": {"model": {}, "training": {}, "vocabulary": 1024},
         "large": {"model": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6},
                   "training": {"sequence_length": 256, "checkpoint_every": 20, "learning_rate": 0.001},
                   "vocabulary": 8192}}
DOMAINS = [{"name": name, "weight": weight, "files": [f"{name}.jsonl"]}
           for name, weight in (("prose", 4), ("code", 2), ("problems", 2), ("literature", 1))]
TRAINING = {"warmup_steps": 100, "learning_rate": 0.002, "min_learning_rate": 0.0001, "batch_size": 16,
            "sequence_length": 128, "checkpoint_every": 250}

GATES = {"dense": "linear", "grap": "grap_cosine(kappa=sqrt_d, center=ema)"}
DROPS = {"fifo": "fifo", "affinity": "top_capacity"}
CAPACITIES = {"1.1": "factor(1.1)", "0.66": "factor(0.66)", "etr_sum": "etr_sum"}

GRID = {f"{gate}-{drop}-{capacity}": f"{GATES[gate]} > top_k(1) > {DROPS[drop]}({CAPACITIES[capacity]}) > softmax + load(0.01)"
        for gate in GATES for drop in DROPS for capacity in CAPACITIES}
OTHERS = {
    "mixtral": "linear > top_k(2) > all > chosen + load(0.01)",
    "switch": "linear(jitter=0.01) > top_k(1) > fifo(factor(1.25)) > softmax + load(0.01)",
    "expert-choice": "linear > all > top_capacity(factor(1, per=token), key=prob, decode=threshold) > softmax",
    "hash": "hash > top_k(1) > all > identity",
    "locmoe": "grap > top_k(1) > fifo(locmoe) > softmax + load(0.01)",
    "deepseek-bias": "linear(sigmoid) > top_k(1) > all > sigmoid + bias(0.001)",
}
CONTROLS = {
    "dense-dropless": "linear > top_k(1) > all > softmax + load(0.01)",
    "grap-dropless": "grap_cosine(kappa=sqrt_d, center=ema) > top_k(1) > all > softmax + load(0.01)",
    "dense-prob-0.66": "linear > top_k(1) > top_capacity(factor(0.66), key=prob) > softmax + load(0.01)",
    "dense-prob-0.55": "linear > top_k(1) > top_capacity(factor(0.55), key=prob) > softmax + load(0.01)",
    "grap-uncentred": "grap_cosine(kappa=sqrt_d) > top_k(1) > top_capacity(etr_sum) > softmax + load(0.01)",
    "dense-affinity-0.55": "linear > top_k(1) > top_capacity(factor(0.55)) > softmax + load(0.01)",
    "grap-affinity-0.55": f"{GATES['grap']} > top_k(1) > top_capacity(factor(0.55)) > softmax + load(0.01)",
    "grap-bottom-0.66": "grap_cosine(kappa=sqrt_d, center=ema) > top_k(1) > top_capacity(factor(0.66), bottom) > softmax"
                        " + load(0.01)",
}
ROUTERS = GRID | OTHERS | CONTROLS


def config(name, seed, steps, size, tokenizer=None):
    own = SIZES[size]
    return {"router": ROUTERS[name], "model": MODEL | own["model"], "data": DOMAINS,
            "tokenizer": tokenizer or {"path": f"tokenizer-{own['vocabulary']}.json"},
            "training": TRAINING | own["training"] | {"steps": steps, "seed": seed},
            "evaluation": {"every": 250, "tokens": 8192}}


def train(options, name, seed):
    choir, data, out = options.choir, options.data, options.out
    run = out / f"{name}.{seed}"
    if (run / "model.safetensors").exists():
        return
    path = out / f"{name}.{seed}.json"
    path.write_text(json.dumps(config(name, seed, options.steps, options.size), indent=1))
    command = [choir, "train", "--threads", "1", "--config", path, "--data", data, "--out", run]
    if (run / "checkpoint.safetensors").exists():
        command.append("--resume")
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    print(name, seed, "done" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["killed"])[-1], flush=True)


def learn_tokenizer(options):
    """One vocabulary for all runs of a size: that of a run of one step."""
    size = SIZES[options.size]["vocabulary"]
    place = options.data / f"tokenizer-{size}.json"
    if place.exists():
        return
    first, run = options.out / "vocabulary.json", options.out / "vocabulary"
    first.write_text(json.dumps(config("mixtral", 1, 1, options.size, {"vocab_size": size})))
    subprocess.run([options.choir, "train", "--config", first, "--data", options.data, "--out", run], check=True)
    place.write_bytes((run / "tokenizer.json").read_bytes())


def names_of(options):
    return [name for name in ROUTERS if not options.only or any(word in name for word in options.only)]


def main_train(options):
    options.out.mkdir(parents=True, exist_ok=True)
    learn_tokenizer(options)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        runs = [pool.submit(train, options, name, seed) for seed in options.seeds for name in names_of(options)]
    for run in runs:
        run.result()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def expert_cosine(evaluation):
    """Mean cosine of the outputs of two different experts on the same tokens."""
    values = [cell for layer in evaluation["expert_cosine"] for i, row in enumerate(layer) for j, cell in enumerate(row)
              if i != j]
    return statistics.mean(values)


def imbalance(evaluation):
    """Busiest expert over the mean, of all held-out text under the decode rule, mean over layers."""
    domains = evaluation["domains"]
    layers = [[statistics.mean(domain["load"][layer][expert] for domain in domains)
               for expert in range(len(domains[0]["load"][layer]))] for layer in range(len(domains[0]["load"]))]
    return statistics.mean(max(load) * len(load) for load in layers)


def result(run):
    last, steps = lines(run / "evaluations.jsonl")[-1], lines(run / "metrics.jsonl")
    tail = steps[-len(steps) // 4:]
    index = [value for value in last["ch_index"] if value is not None]
    return {"loss": last["loss"], "gap": last["loss"] - last["loss_training_rule"],
            "processed": 100 * statistics.mean(step["processed_share"] for step in tail),
            "pairs": statistics.mean(statistics.mean(step["layers"]["tokens_per_expert"]) for step in tail),
            "imbalance": imbalance(last), "cosine": expert_cosine(last),
            "ch": statistics.mean(index) if index else None}


def spread(values, form):
    """Mean and half the range over the seeds."""
    if None in values:
        return "–"
    if len(values) == 1:
        return form.format(values[0])
    return f"{form.format(statistics.mean(values))} ± {form.format((max(values) - min(values)) / 2).lstrip('+')}"


def main_table(options):
    runs = {name: {run.suffix: result(run) for run in sorted(options.out.glob(f"{name}.[0-9]"))
                   if (run / "model.safetensors").exists()} for name in ROUTERS}
    base = runs[next(iter(GRID))]
    print("| router | seeds | loss | against the first | gap | tokens an expert | against the first | load | cosine | CH |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, of in runs.items():
        if not of:
            continue
        column = lambda key: [run[key] for run in of.values()]
        against = lambda key: spread([100 * (run[key] / base[seed][key] - 1) for seed, run in of.items() if seed in base],
                                     "{:+.2f}") + " %"
        cells = [name, str(len(of)), spread(column("loss"), "{:.4f}"), against("loss"), spread(column("gap"), "{:+.4f}"),
                 spread(column("pairs"), "{:.0f}"), against("pairs"), spread(column("imbalance"), "{:.2f}"),
                 spread(column("cosine"), "{:.3f}"), spread(column("ch"), "{:.0f}")]
        print("| " + " | ".join(cells) + " |")


def timed(options, name):
    """Median seconds of a step, peak memory and processed share of steps that begin as the trained model."""
    with tempfile.TemporaryDirectory(dir=options.out) as place:
        run, path = pathlib.Path(place) / "run", pathlib.Path(place) / "config.json"
        settings = config(name, 1, options.steps, options.size)
        del settings["evaluation"]
        trained = options.out / f"{name}.1"
        if (trained / "model.safetensors").exists():
            settings["from"] = str(trained.resolve())
        path.write_text(json.dumps(settings))
        subprocess.run([options.choir, "train", "--config", path, "--data", options.data, "--out", run], check=True,
                       capture_output=True)
        steps = lines(run / "metrics.jsonl")[3:]
    return {"seconds": statistics.median(step["seconds"] for step in steps), "memory": steps[-1]["peak_memory"],
            "processed": statistics.mean(step["processed_share"] for step in steps),
            "tokens": statistics.median(step["tokens_per_second"] for step in steps),
            "peak": statistics.median(step["share_of_peak"] for step in steps)}


def main_time(options):
    learn_tokenizer(options)
    names = names_of(options)
    rounds = [{name: timed(options, name) for name in names} for _ in range(options.rounds)]
    base = names[0]
    print(f"| router | ms a step | ratio to {base} | tokens/s | of peak | processed | peak memory, MB |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        column = lambda key: statistics.median(one[name][key] for one in rounds)
        ratio = statistics.median(one[name]["seconds"] / one[base]["seconds"] for one in rounds)
        print(f"| {name} | {1000 * column('seconds'):.1f} | {ratio:.3f} | {column('tokens'):.0f} | "
              f"{100 * column('peak'):.0f} % | {100 * column('processed'):.1f} % | {column('memory') / 1e6:.0f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    training = verbs.add_parser("train")
    for argument in ("choir", "data", "out"):
        training.add_argument(argument, type=pathlib.Path)
    training.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    training.add_argument("--steps", type=int, default=1000)
    training.add_argument("--jobs", type=int, default=2)
    training.set_defaults(run=main_train)
    clock = verbs.add_parser("time")
    for argument in ("choir", "data", "out"):
        clock.add_argument(argument, type=pathlib.Path)
    clock.add_argument("--rounds", type=int, default=5)
    clock.add_argument("--steps", type=int, default=30)
    clock.set_defaults(run=main_time)
    for verb in (training, clock):
        verb.add_argument("--only", nargs="+")
        verb.add_argument("--size", choices=SIZES, default="small")
    table = verbs.add_parser("table")
    table.add_argument("out", type=pathlib.Path)
    table.set_defaults(run=main_table)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
