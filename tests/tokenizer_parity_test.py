"""Tokenizers agree with the npm packages `tokenizers` and `@huggingface/tokenizers`, and with spm_encode.

tokenizer_parity_test.py PROGRAM                        compare with what the packages said (tokenizer_parity.json)
tokenizer_parity_test.py PROGRAM --oracle NODE_MODULES [NAME...]   ask them again and write the file

PROGRAM is tokenize_texts. The tokenizers and texts are those of tokenizer_cases.py, from ../shared/data.
"""
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


def ask(modules, program, names):
    """What the packages say, and where they and Choir differ."""
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for name, kind, path, file in each_pair(folder, names):
            said = {}
            for package in ("tokenizers", "@huggingface/tokenizers"):
                fault = run(["node", HERE / "tokenizer_oracle.cjs", modules, package, path, file, folder / "out"])
                said[package] = {"fault": fault} if fault else digest(folder / "out")
            fault = run([program, path, file, folder / "out"])
            ours = {"fault": fault} if fault else digest(folder / "out")
            golden.setdefault(name, {})[kind] = said["tokenizers"]
            js = said["@huggingface/tokenizers"]
            apart = [key for key in ("ids", "keep", "skip") if ours.get(key) != said["tokenizers"].get(key)]
            js_apart = [key for key in ("ids", "keep", "skip") if js.get(key) != said["tokenizers"].get(key)]
            print(f"{name:16} {kind:12} choir {' '.join(apart) or 'agrees'}; the other package "
                  f"{' '.join(js_apart) or 'agrees'} {fault} {js.get('fault', '')}", flush=True)
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


def compare(program):
    golden = json.loads(GOLDEN.read_text())
    failures = count = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for name, kind, path, file in each_pair(folder):
            fault = run([program, path, file, folder / "out"])
            ours = {"fault": fault} if fault else digest(folder / "out")
            count += 1
            if ours != golden[name][kind]:
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
    return compare(sys.argv[1])


if __name__ == "__main__":
    sys.exit(main())
