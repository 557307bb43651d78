"""Turns a folder of public texts into the training files of models/choir-tiny.

prepare_text.py SOURCE OUT

SOURCE holds the folders peps, rust-rfcs, wiki-split, code-python, code-cpp, gsm8k, tinyshakespeare and botchan as
their publishers lay them out (packed files need the zstd program). OUT gets, for each domain, NAME.jsonl to train on
and NAME.held-out.txt with every fortieth document, never trained on. One document a line: {"text": ...}.
"""
import json
import pathlib
import re
import subprocess
import sys

HELD_OUT = 40  # every fortieth document


def read(path):
    data = subprocess.run(["zstd", "-dc", path], check=True, stdout=subprocess.PIPE).stdout \
        if path.suffix == ".zst" else path.read_bytes()
    return data.decode("utf-8").lstrip("\ufeff").replace("\r\n", "\n")


def files_of(path):
    """Documents behind lines <|file:PATH|>."""
    return [part.split("\n", 1)[1] for part in re.split(r"^<\|file:", read(path), flags=re.M)[1:]]


def wiki(path):
    """Sentences in column 1; their tokens stand apart, so punctuation is drawn back to its word."""
    for line in read(path).split("\n"):
        sentence = line.split("\t")[0].replace(" ''", '"').replace("'' ", '"').replace("`` ", '"')
        yield re.sub(r"([(]) | ([.,;:!?)])| ('s\b)", r"\1\2\3", sentence)


def problems(path):
    for line in read(path).split("\n"):
        if line:
            item = json.loads(line)
            answer = re.sub(r"<<[^>]*>>", "", item["answer"])
            yield f"Question: {item['question']}\nAnswer: {answer}\n"


def pieces(text, size=4000):
    """A long book in documents of whole paragraphs."""
    part = ""
    for paragraph in re.split(r"(?<=\n\n)", text):
        part += paragraph
        if len(part) >= size:
            yield part
            part = ""
    if part:
        yield part


def domains(src):
    wiki_lines = [*wiki(src / "wiki-split/tune.tsv"), *wiki(src / "wiki-split/validation.tsv")]
    paragraphs = ["\n".join(wiki_lines[i:i + 8]) for i in range(0, len(wiki_lines), 8)]
    yield "prose", files_of(src / "peps/peps.txt.zst") + files_of(src / "rust-rfcs/rust-rfcs.txt.zst") + paragraphs
    yield "code", files_of(src / "code-python/python.txt.zst") + files_of(src / "code-cpp/cpp.txt")
    yield "problems", list(problems(src / "gsm8k/train.jsonl.zst"))
    books = read(next((src / "tinyshakespeare").glob("*.txt"))), read(src / "botchan/botchan.txt")
    yield "literature", [piece for book in books for piece in pieces(book)]


def main(src, out):
    out.mkdir(parents=True, exist_ok=True)
    for name, documents in domains(src):
        documents = [d for d in documents if d.strip()]
        train = [d for i, d in enumerate(documents) if i % HELD_OUT]
        held_out = documents[::HELD_OUT]
        lines = "".join(json.dumps({"text": d}, ensure_ascii=False) + "\n" for d in train)
        (out / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        (out / f"{name}.held-out.txt").write_text("\n".join(held_out), encoding="utf-8")
        print(f"{name}: {len(train)} documents, {sum(map(len, train)) / 1e6:.2f} M characters; "
              f"held out {len(held_out)}, {sum(map(len, held_out)) / 1e3:.0f} k characters")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
