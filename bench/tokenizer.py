#!/usr/bin/env python3
"""Choir's tokenizer and the npm package `tokenizers` in turn, on one thread each; prints CSV of medians.

    scripts/setup.sh bench && npm install --prefix PLACE tokenizers
    bench/tokenizer.py --data ../shared/data --modules PLACE [--rounds 5] > bench/results/tokenizer.csv

The tokenizers are those of tests/tokenizer_cases.py: a byte-level BPE with the words of GPT-2 and one with those of
Qwen, a BPE with byte fallback (Llama) and a Unigram; the texts are English, C++, Chinese and many languages.
"""
import argparse
import csv
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
import tokenizer_cases  # noqa: E402

TOKENIZERS = ["gpt2", "qwen", "llama-spm", "unigram"]
TEXTS = ["english", "cpp", "chinese", "udhr"]


def measured(command, place):
    """One round: a row for each text."""
    alone = os.environ | {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    run = subprocess.run(command, cwd=place, env=alone, capture_output=True, encoding="utf-8", check=True)
    return list(csv.DictReader(run.stdout.splitlines()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--modules", type=pathlib.Path, required=True, help="where node_modules is")
    parser.add_argument("--program", type=pathlib.Path, default=HERE.parent / "build/bench/bench/bench_tokenizer")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["tokenizer", "text", "bytes", "tokens", "encode_mb_per_second", "peer_encode", "encode_ratio",
                   "decode_mb_per_second", "peer_decode", "decode_ratio", "same_count"])
    with tempfile.TemporaryDirectory() as place:
        folder, texts = pathlib.Path(place), []
        for name, parts in tokenizer_cases.text_cases(options.data):
            if name in TEXTS:
                texts.append(folder / name)
                texts[-1].write_bytes(b"\n".join(parts)[:1 << 18].decode(errors="ignore").encode())
        for name, case in tokenizer_cases.tokenizer_cases(options.data):
            if name not in TOKENIZERS:
                continue
            file = folder / f"{name}.json"
            file.write_text(json.dumps(case, ensure_ascii=False))
            ours = [options.program.resolve(), file, *texts, "--repeats", "1"]
            peer = ["node", HERE / "peers/tokenizers.cjs", file, *texts, "--repeats", "1"]
            rounds = [(measured(ours, options.modules), measured(peer, options.modules)) for _ in range(options.rounds)]
            for i, text in enumerate(texts):
                def median(who, key):
                    return statistics.median(float(r[who][i][key]) for r in rounds)
                line = [name, text.name, rounds[0][0][i]["bytes"], rounds[0][0][i]["tokens"]]
                for key in ["encode_mb_per_second", "decode_mb_per_second"]:
                    line += [f"{median(0, key):.2f}", f"{median(1, key):.2f}", f"{median(0, key) / median(1, key):.1f}"]
                rows.writerow(line + [rounds[0][0][i]["tokens"] == rounds[0][1][i]["tokens"]])
            sys.stdout.flush()


if __name__ == "__main__":
    main()
