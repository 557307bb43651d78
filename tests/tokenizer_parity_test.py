"""Tokenizers agree with the npm packages `tokenizers` and `@huggingface/tokenizers`, and with spm_encode.

tokenizer_parity_test.py PROGRAM                        compare with what the packages said (tokenizer_parity.json):
                                                        all tokenizers on the short texts, a few on all
tokenizer_parity_test.py PROGRAM --all                  all on all
tokenizer_parity_test.py PROGRAM --oracle NODE_MODULES [NAME...]   ask them again and write the file

PROGRAM is tokenize_texts. The tokenizers and texts are those of tokenizer_cases.py, from ../shared/data.
"""
import array
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

import tokenizer_cases

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE.parent.parent / "shared/data"
GOLDEN = HERE / "tokenizer_parity.json"
SKIPPED = 77


# Their added tokens have letters that stand for bytes; the packages decode them to broken UTF-8, Choir to themselves.
IDS_ONLY = {"deepseek-coder", "norm-nfkc", "norm-nmt"}


def digest(out):
    """Of the ids and of both decoded texts; what is not UTF-8 in those is replaced as the packages do it."""
    ids = pathlib.Path(f"{out}.ids").read_bytes()
    texts = [pathlib.Path(f"{out}.{kind}").read_bytes().decode(errors="replace") for kind in ("keep", "skip")]
    short = [hashlib.sha256(part).hexdigest()[:16] for part in (ids, *(text.encode() for text in texts))]
    return dict(zip(("ids", "keep", "skip"), short))


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""


def each_pair(folder, names=()):
    """Writes the files; yields (tokenizer, texts, path, path)."""
    texts = {}
    for name, parts in tokenizer_cases.text_cases(DATA):
        texts[name] = folder / f"{name}.texts"
        texts[name].write_bytes(b"\0".join(parts))
    for name, case in tokenizer_cases.tokenizer_cases(DATA):
        if names and name not in names:
            continue
        path = folder / f"{name}.json"
        path.write_text(json.dumps(case, ensure_ascii=False))
        rare = name.startswith(("pre-", "norm-"))
        for kind, file in texts.items():
            if not rare or kind in ("fixtures", "odd", "udhr"):
                yield name, kind, path, file


def each_model(folder, names=()):
    """The same for tokenizer.model files and lines of text."""
    texts = {}
    for name, parts in tokenizer_cases.text_cases(DATA):
        texts[name] = folder / f"{name}.lines"
        texts[name].write_bytes(b"\0".join(tokenizer_cases.lines_of(parts)))
    for name, path in tokenizer_cases.model_cases(DATA):
        for kind in ("udhr", "mixed", "japanese", "botchan", "cpp") if not names or name in names else ():
            yield name, kind, path, texts[kind]


def by_sentencepiece(path, file):
    lines = file.read_bytes().replace(b"\0", b"\n") + b"\n"
    done = subprocess.run(["spm_encode", f"--model={path}", "--output_format=id"], input=lines, check=True,
                          capture_output=True)
    ids = array.array("i")
    for line in done.stdout.decode().split("\n")[:-1]:
        ids.extend([*map(int, line.split()), -1])
    return hashlib.sha256(ids.tobytes()).hexdigest()[:16]


def ask_sentencepiece(program, names, golden):
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for name, kind, path, file in each_model(folder, names):
            said = {"ids": by_sentencepiece(path, file)}
            fault = run([program, path, file, folder / "out"])
            golden.setdefault(name, {})[kind] = said
            apart = fault or digest(folder / "out")["ids"] != said["ids"]
            print(f"{name:24} {kind:12} choir {fault or ('ids' if apart else 'agrees')}", flush=True)


def said_by(command, out):
    fault = run(command)
    return {"fault": fault} if fault else digest(out)


def ask(modules, program, names):
    """What `tokenizers` says, and where Choir and the other package differ from it; that one is slow on long texts."""
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        out = folder / "out"
        for name, kind, path, file in each_pair(folder, names):
            oracle = ["node", HERE / "tokenizer_oracle.cjs", modules]
            native = said_by([*oracle, "tokenizers", path, file, out], out)
            if name in IDS_ONLY:
                native = {"ids": native["ids"]}
            golden.setdefault(name, {})[kind] = native
            results = {"choir": said_by([program, path, file, out], out)}
            if kind in ("fixtures", "odd"):
                results["@huggingface/tokenizers"] = said_by([*oracle, "@huggingface/tokenizers", path, file, out], out)
            for who, result in results.items():
                apart = [key for key, value in native.items() if result.get(key) != value]
                print(f"{name:16} {kind:12} {who} {' '.join(apart) or 'agrees'} {result.get('fault', '')} "
                      f"{native.get('fault', '')}", flush=True)
            GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    ask_sentencepiece(program, names, golden)
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


COMMON = {"qwen", "mistral", "unigram"}


def compare(program, everything):
    golden = json.loads(GOLDEN.read_text())
    failures = count = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for name, kind, path, file in [*each_pair(folder), *each_model(folder)]:
            short = kind in ("fixtures", "odd") or (kind == "udhr" and not name.startswith(("pre-", "norm-")))
            if not everything and not short and name not in COMMON:
                continue
            said = golden.get(name, {}).get(kind)
            if said is None:  # nobody was asked about this pair
                continue
            ours = said_by([program, path, file, folder / "out"], folder / "out")
            count += 1
            if any(ours.get(key) != value for key, value in said.items()):
                failures += 1
                print(f"{name}, {kind}: {ours}, expected {golden[name][kind]}")
    print(f"{count} pairs of a tokenizer and texts, {failures} differ")
    return 1 if failures else 0


def main():
    if not DATA.exists():
        print("skipped: ../shared/data is absent")
        return SKIPPED
    if "--oracle" in sys.argv:
        ask(sys.argv[3], sys.argv[1], sys.argv[4:])
        return 0
    return compare(sys.argv[1], "--all" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
