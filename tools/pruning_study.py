"""Prunes a trained model in many ways and prints the tables of docs/results/pruning.md.

pruning_study.py CHOIR MODEL DATA OUT [--keep R...] [--seeds N] [--draws N] [--domains NAME...] [--characters N]
                 [--jobs J]

DATA is what tools/prepare_text.py wrote. MODEL is trained on it when it is not there and is called e8 or e64.
Calibration text is the beginning of each domain's training documents, `mixed` short pieces of each in turn; distances
are measured on the beginning of each domain's held-out text, continuations are told apart on what follows it. random is
the mean of --draws seeds (20), sampled NAEE that of --seeds. What is finished is not made again.
"""
import argparse
import concurrent.futures
import json
import pathlib
import random
import statistics
import subprocess

DOMAINS = ("prose", "code", "problems", "literature")
SEARCH = ["--method", "search", "--objective", "stream"]
# `shared`: as many experts in all, but each layer as many as a budget gives it; the others keep equal counts.
METHODS = {"frequency": ["--method", "frequency"], "reap": ["--method", "reap"], "ean": ["--method", "ean"],
           "msan": ["--method", "msan"], "NAEE": None, "search": SEARCH, "reap, shared": ["--method", "reap"],
           "genetic": ["--method", "genetic", "--objective", "stream"],
           "genetic, blocks": ["--method", "genetic", "--objective", "stream", "--block", "3"],
           "gradient, shared": ["--method", "search", "--objective", "gradient"],
           "seer, shared, ranked": ["--method", "seer", "--share", "score"],
           "search, shared": SEARCH, "search, shared, repaired": SEARCH + ["--repair"]}
# Other ways to the bytes of a share of the experts: all of them, but as many of their neurons.
NEURONS = ("neurons", "neurons, repaired")
FOR_DOMAINS = ("NAEE", "search, shared", "search, shared, repaired")
PIECE = 400  # characters of each domain in turn, in the mixed text
CALIBRATION = ["--sequences", "64", "--length", "128", "--batch", "16"]


SHAPES = {"e8": (8, 2, 320), "e64": (64, 4, 48)}  # experts, experts a token, their width


def train(options):
    experts, top_k, width = SHAPES[options.model.name]
    config = {"router": f"linear > top_k({top_k}) > all > chosen + load(0.01)",
              "model": {"model_type": "mixtral", "hidden_size": 160, "intermediate_size": width, "num_hidden_layers": 4,
                        "num_attention_heads": 4, "num_key_value_heads": 4, "num_local_experts": experts,
                        "num_experts_per_tok": top_k, "max_position_embeddings": 256, "rope_theta": 10000.0,
                        "rms_norm_eps": 1e-5},
              "data": [{"name": name, "weight": weight, "files": [f"{name}.jsonl"]}
                       for name, weight in zip(DOMAINS, (4, 2, 2, 1))],
              "tokenizer": {"vocab_size": 1024},
              "training": {"steps": 2000, "warmup_steps": 100, "learning_rate": 0.002, "min_learning_rate": 0.0001,
                           "batch_size": 16, "sequence_length": 128, "checkpoint_every": 250, "seed": 1}}
    path = options.model.with_name(options.model.name + ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config, indent=1))
    resume = ["--resume"] if (options.model / "checkpoint.safetensors").exists() else []
    subprocess.run([str(options.choir), "train", "--config", path, "--data", options.data, "--out", options.model,
                    *resume], check=True)


def choir(options, *words):
    done = subprocess.run([str(options.choir), *map(str, words), "--threads", "1", "--json"], capture_output=True,
                          text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def documents(path):
    return [json.loads(line)["text"] for line in path.open()]


def write_texts(options):
    """Calibration, held-out text and items; the same for every model."""
    options.out.mkdir(parents=True, exist_ok=True)
    size = options.characters
    for domain in DOMAINS:
        text = "\n".join(documents(options.data / f"{domain}.jsonl")[:400])
        (options.out / f"calibrate-{domain}.txt").write_text(text[:8 * size])
        held = (options.data / f"{domain}.held-out.txt").read_text()
        (options.out / f"test-{domain}.txt").write_text(held[:size])
        (options.out / f"rest-{domain}.txt").write_text(held[size:])
    texts = [(options.out / f"calibrate-{domain}.txt").read_text() for domain in DOMAINS]
    pieces = [text[first:first + PIECE] for first in range(0, 2 * size, PIECE) for text in texts]
    (options.out / "calibrate-mixed.txt").write_text("".join(pieces))
    rng, items = random.Random(1), []
    for domain in DOMAINS:
        words = (options.out / f"rest-{domain}.txt").read_text().split(" ")
        for _ in range(200):
            places = rng.sample(range(60, len(words) - 20), 4)
            choices = [" " + " ".join(words[place:place + 10]) for place in places]
            gold, context = rng.randrange(4), " ".join(words[places[0] - 40:places[0]])
            choices[0], choices[gold] = choices[gold], choices[0]
            items.append({"context": context, "choices": choices, "gold": gold})
    (options.out / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))


def measured(options, model, full):
    """Distance and perplexity on each domain, and the share of continuations told apart."""
    place = model.with_name(model.name + ".measured.json") if model != full else options.out / "full.measured.json"
    if place.exists():
        return json.loads(place.read_text())
    result = {}
    for domain in DOMAINS:
        text = options.out / f"test-{domain}.txt"
        found = choir(options, "eval", model, "--against", full, "--text", text, "--context", 128)
        result[domain] = {"kl": found["kl_mean"], "perplexity": found["perplexity"]}
    result["accuracy"] = choir(options, "eval", model, "--choices", options.out / "items.jsonl")["acc_norm"]
    place.write_text(json.dumps(result))
    return result


def row(options, name, keep, domain):
    """What a method makes of the model, calibrated on a domain; several seeds where it draws."""
    draws = options.draws if name == "random" else options.seeds if name == "NAEE" and options.sampled else 1
    seeds = range(1, draws + 1)
    found = []
    for seed in seeds:
        out = options.out / f"{name.replace(', ', '-')}.{keep}.{domain}.{seed}"
        words = METHODS.get(name) or ["--method", "random" if name == "random" else
                                      "sampled" if options.sampled else "exact"]
        if not (out / "model.safetensors").exists():
            counts = ["--keep-total", keep * options.layers] if "shared" in name else ["--keep", keep]
            if name in NEURONS:
                counts, words = ["--neurons", keep / options.experts], ["--repair"] if "repaired" in name else []
            report = choir(options, "prune", options.model, "--out", out, *counts, *words, "--calibrate",
                           options.out / f"calibrate-{domain}.txt", *CALIBRATION, "--seed", seed)
            out.with_name(out.name + ".report.json").write_text(json.dumps(report))
        found.append(measured(options, out, options.model))
    return name, keep, domain, found


def cells(found, key):
    values = [[one[domain][key] for domain in DOMAINS] for one in found]
    return [statistics.mean(column) for column in zip(*values)]


def line(name, keep, found):
    kl, perplexity = cells(found, "kl"), cells(found, "perplexity")
    mean = [statistics.mean(one[domain]["kl"] for domain in DOMAINS) for one in found]
    spread = f" ± {(max(mean) - min(mean)) / 2:.3f}" if len(mean) > 1 else ""
    accuracy = 100 * statistics.mean(one["accuracy"] for one in found)
    return (f"| {name} | {keep} | {statistics.mean(mean):.3f}{spread} | " + " | ".join(f"{value:.3f}" for value in kl) +
            " | " + " | ".join(f"{value:.1f}" for value in perplexity) + f" | {accuracy:.0f} % |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for argument in ("choir", "model", "data", "out"):
        parser.add_argument(argument, type=pathlib.Path)
    parser.add_argument("--keep", type=int, nargs="+", default=[6, 4])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--domains", nargs="+", default=["mixed", *DOMAINS])
    parser.add_argument("--characters", type=int, default=16000)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    if not (options.model / "model.safetensors").exists():
        train(options)
    config = json.loads((options.model / "config.json").read_text())
    options.experts, options.layers = config["num_local_experts"], config["num_hidden_layers"]
    options.sampled = options.experts > 16
    write_texts(options)
    names = ["random", *METHODS, *NEURONS]
    wanted = [(name, keep, domain) for domain in options.domains for keep in options.keep for name in names
              if domain == "mixed" or name in FOR_DOMAINS]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        rows = [pool.submit(row, options, *one) for one in wanted]
        full = measured(options, options.model, options.model)
        rows = [one.result() for one in rows]
    head = " | ".join(f"KL {domain}" for domain in DOMAINS) + " | " + " | ".join(f"ppl {domain}" for domain in DOMAINS)
    for domain in options.domains:
        print(f"\ncalibrated on {domain}\n\n| method | keep | KL, mean | {head} | choices |\n|---|---|---|" +
              "---|" * (2 * len(DOMAINS) + 1))
        print(line("full", options.experts, [full]))
        for name, keep, of, found in rows:
            if of == domain:
                print(line(name, keep, found))


if __name__ == "__main__":
    main()
