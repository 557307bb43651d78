#!/usr/bin/env python3
"""From the start of a process to its first token, and the memory that takes, with a model that the page cache holds.

    bench/mapped_start.py --choir build/release/choir [--place /tmp/choir_mapped_start] [--layers 6] [--repeats 5]

Makes a model of random bfloat16 numbers (OLMoE's sizes: width 2048, 64 experts of width 1024, top 8, vocabulary 50304;
six layers are 5.4 GB) in --place, which it removes again, reads it once, and runs `choir generate --exact -n 1`, which
computes on the mapped file, for prompts of 1 and 16 ids. Prints CSV: seconds until the first token is printed and until
the process has ended, medians; resident memory at its end; the bytes of the weights that it had to touch, by the
experts that `choir forward --trace` says it chose; and the share by which memory is more.
"""
import argparse
import array
import json
import os
import pathlib
import random
import shutil
import statistics
import struct
import subprocess
import sys
import time

WIDTH, EXPERT_WIDTH, EXPERTS, TOP, HEADS, VOCAB = 2048, 1024, 64, 8, 16, 50304
BYTES = 2  # of a number


def config(layers):
    return {"model_type": "olmoe", "hidden_size": WIDTH, "intermediate_size": EXPERT_WIDTH, "num_experts": EXPERTS,
            "num_experts_per_tok": TOP, "num_hidden_layers": layers, "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS, "vocab_size": VOCAB, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "norm_topk_prob": False, "tie_word_embeddings": False, "clip_qkv": None}


def shapes(layers):
    yield "model.embed_tokens.weight", [VOCAB, WIDTH]
    for layer in range(layers):
        block = f"model.layers.{layer}."
        for name in ["input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"]:
            yield f"{block}{name}.weight", [WIDTH]
        for name in "qkvo":
            yield f"{block}self_attn.{name}_proj.weight", [WIDTH, WIDTH]
        yield f"{block}mlp.gate.weight", [EXPERTS, WIDTH]
        for expert in range(EXPERTS):
            for name, shape in [("gate", [EXPERT_WIDTH, WIDTH]), ("up", [EXPERT_WIDTH, WIDTH]),
                                ("down", [WIDTH, EXPERT_WIDTH])]:
                yield f"{block}mlp.experts.{expert}.{name}_proj.weight", shape
    yield "model.norm.weight", [WIDTH]
    yield "lm_head.weight", [VOCAB, WIDTH]


def bytes_of(shape):
    size = BYTES
    for dimension in shape:
        size *= dimension
    return size


def random_pool(count):
    """Normal numbers of deviation 0.03 in bfloat16: the upper halves of floats."""
    source = random.Random(1)
    halves = array.array("H", array.array("f", (source.gauss(0, 0.03) for _ in range(count))).tobytes())
    return halves[1::2].tobytes()


def write_model(place, layers):
    header, begin = {}, 0
    for name, shape in shapes(layers):
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, begin + bytes_of(shape)]}
        begin += bytes_of(shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    pool, at = random_pool((1 << 20) + 7), 0  # an odd length, so that no two matrices are alike
    with open(place / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape in shapes(layers):
            left = bytes_of(shape)
            while left:
                piece = pool[at:at + left]
                file.write(piece)
                left -= len(piece)
                at = (at + len(piece)) % len(pool)
    (place / "config.json").write_text(json.dumps(config(layers)))
    return begin


def read_once(path):
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def run(command):
    """Seconds until something is printed, seconds until the end, resident bytes at most."""
    begin = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.read(1)
    first = time.monotonic() - begin
    child.stdout.read()
    message = child.stderr.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(message)
    return first, time.monotonic() - begin, usage.ru_maxrss * 1024


def touched(choir, place, ids, layers):
    """Bytes of the weights that the prompt needs: whole matrices, of the embedding the rows."""
    tensor = struct.pack(f"<{len(ids)}q", *ids)
    header = json.dumps({"input_ids": {"dtype": "I64", "shape": [1, len(ids)], "data_offsets": [0, len(tensor)]}}).encode()
    (place / "ids.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + tensor)
    out = place / "trace.safetensors"
    subprocess.run([choir, "forward", place, "--ids", place / "ids.safetensors", "--out", out, "--trace", "--force"],
                   check=True, capture_output=True)
    data = out.read_bytes()
    length, = struct.unpack("<Q", data[:8])
    entries, total, experts = json.loads(data[8:8 + length]), 0, 0
    for layer in range(layers):
        begin, end = entries[f"topk_idx.{layer}"]["data_offsets"]
        experts += len(set(array.array("q", data[8 + length + begin:8 + length + end])))
    for name, shape in shapes(layers):
        if ".experts." not in name:
            total += len(ids) * WIDTH * BYTES if "embed" in name else bytes_of(shape)
    return experts, total + experts * 3 * WIDTH * EXPERT_WIDTH * BYTES


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choir", required=True)
    parser.add_argument("--place", type=pathlib.Path, default=pathlib.Path("/tmp/choir_mapped_start"))
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", default="2")
    parser.add_argument("--keep", action="store_true", help="leave the model for another run, or use the one there")
    options = parser.parse_args()
    if not (options.place / "config.json").exists():
        options.place.mkdir(parents=True)
        write_model(options.place, options.layers)
    file = options.place / "model.safetensors"
    try:
        read_once(file)
        print(f"# {file.stat().st_size / 1e9:.2f} GB, threads {options.threads}")
        print("prompt,experts_touched,first_token_seconds,whole_seconds,resident_mb,touched_mb,more_percent")
        for length in [1, 16]:
            ids = [random.Random(length * 100 + i).randrange(VOCAB) for i in range(length)]
            command = [options.choir, "generate", options.place, "--ids", ",".join(map(str, ids)), "-n", "1", "--exact",
                       "--threads", options.threads]
            experts, needed = touched(options.choir, options.place, ids, options.layers)
            runs = [run(command) for _ in range(options.repeats)]
            first, whole, resident = (statistics.median(column) for column in zip(*runs))
            print(f"{length},{experts},{first:.3f},{whole:.3f},{resident / 1e6:.1f},{needed / 1e6:.1f},"
                  f"{100 * (resident / needed - 1):.1f}", flush=True)
    finally:
        if not options.keep:
            shutil.rmtree(options.place)


if __name__ == "__main__":
    main()
