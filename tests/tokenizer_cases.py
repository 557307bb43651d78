"""Tokenizers and texts for tokenizer_parity_test.py, made from the files of ../shared/data.

The tokenizer.json files are put together here in the shapes that published model families use, around vocabularies
that are at hand; the texts are read in place.
"""
import base64
import json
import random
import struct
import subprocess
import zipfile

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = CL100K.replace("{1,3}", "")
_UP, _LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TAIL = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UP}*{_LOW}+{_TAIL}|[^\r\n\p{{L}}\p{{N}}]?{_UP}+{_LOW}*{_TAIL}|\p{{N}}{{1,3}}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK3 = [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
             r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^" "\r\n" r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
             r"| ?[\p{P}\p{S}]+[" "\r\n" r"]*|\s*[" "\r\n" r"]+|\s+(?!\S)|\s+"]
DEEPSEEK_CODER = ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"]


# --- parts of a tokenizer.json

def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def byte_level(prefix=False, regex=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def sequence(*parts, key="pretokenizers"):
    return {"type": "Sequence", key: list(parts)}


def metaspace(scheme, cuts=True):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cuts}


def added(number, content, special=True, **flags):
    token = {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": special}
    token.update(flags)
    return token


def template(before=(), after=()):
    pieces = [{"SpecialToken": {"id": name, "type_id": 0}} for name, _ in before]
    pieces.append({"Sequence": {"id": "A", "type_id": 0}})
    pieces += [{"SpecialToken": {"id": name, "type_id": 0}} for name, _ in after]
    tokens = {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in [*before, *after]}
    pair = pieces + [{"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": pieces, "pair": pair, "special_tokens": tokens}


def bpe(vocab, merges, **options):
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": vocab, "merges": merges}
    model.update(options)
    return model


def whole(model, pre=None, normalizer=None, decoder=None, post=None, tokens=()):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": list(tokens),
            "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": post,
            "decoder": decoder or byte_level(), "model": model}


SPM_DECODER = sequence({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                       {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}, key="decoders")
SPM_NORMALIZER = sequence({"type": "Prepend", "prepend": "▁"},
                          {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, key="normalizers")


# --- files

def read_gguf(path):
    """The key-value pairs of a GGUF file."""
    data = path.read_bytes()
    if path.suffix == ".zst":
        data = subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout
    at = 24
    count = struct.unpack_from("<Q", data, 16)[0]

    def string():
        nonlocal at
        size = struct.unpack_from("<Q", data, at)[0]
        at += 8 + size
        return data[at - size:at].decode()

    def value(kind):
        nonlocal at
        if kind == 8:
            return string()
        if kind == 9:
            inner, size = struct.unpack_from("<IQ", data, at)
            at += 12
            return [value(inner) for _ in range(size)]
        code = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}[kind]
        found = struct.unpack_from("<" + code, data, at)[0]
        at += struct.calcsize(code)
        return found

    pairs = {}
    for _ in range(count):
        key = string()
        kind = struct.unpack_from("<I", data, at)[0]
        at += 4
        pairs[key] = value(kind)
    return pairs


def fields(data):
    """(number, value) of each field of a protobuf message."""
    at = 0

    def varint():
        nonlocal at
        shift = result = 0
        while True:
            byte = data[at]
            at += 1
            result |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return result

    while at < len(data):
        key = varint()
        wire = key & 7
        if wire == 0:
            yield key >> 3, varint()
        else:
            size = varint() if wire == 2 else {1: 8, 5: 4}[wire]
            yield key >> 3, data[at:at + size]
            at += size


def read_sentencepiece(path):
    """([(text, score, type)], precompiled_charsmap)"""
    pieces, charsmap = [], b""
    for number, value in fields(path.read_bytes()):
        if number == 1:
            piece = dict(fields(value))
            pieces.append((piece[1].decode(), struct.unpack("<f", piece.get(2, bytes(4)))[0], piece.get(3, 1)))
        if number == 3:
            charsmap = dict(fields(value)).get(2, b"")
    return pieces, charsmap


def merges_of(pieces):
    """The merges that convert_slow_tokenizer of `transformers` makes from a SentencePiece BPE vocabulary."""
    vocab = {text: i for i, (text, _, _) in enumerate(pieces)}
    merges = []
    for text, score, _ in pieces:
        local = [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in vocab and text[i:] in vocab]
        local.sort(key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
        merges += [(left, right, score) for left, right in local]
    merges.sort(key=lambda merge: merge[2], reverse=True)
    return [[left, right] for left, right, _ in merges]


def sentencepiece_bpe(pieces, **parts):
    """A SentencePiece BPE vocabulary as Llama's tokenizer.json."""
    vocab = {text: i for i, (text, _, _) in enumerate(pieces)}
    specials = [added(i, text) for i, (text, _, kind) in enumerate(pieces) if kind in (2, 3)]
    specials += [added(i, text, special=False) for i, (text, _, kind) in enumerate(pieces) if kind == 4]
    model = bpe(vocab, merges_of(pieces), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    return whole(model, decoder=parts.pop("decoder", SPM_DECODER), tokens=specials, **parts)


def sentencepiece_unigram(path):
    """A SentencePiece Unigram model as the tokenizer.json of T5 and its kin."""
    pieces, charsmap = read_sentencepiece(path)
    vocab = [[text, score] for text, score, _ in pieces]
    unknown = next(i for i, piece in enumerate(pieces) if piece[2] == 2)
    specials = [added(i, text) for i, (text, _, kind) in enumerate(pieces) if kind in (2, 3)]
    blanks = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    normalizer = sequence({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}, blanks,
                          key="normalizers")
    return whole({"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": False},
                 pre=metaspace("always"), normalizer=normalizer, decoder=metaspace("always"), tokens=specials,
                 post=template(after=[("</s>", next(i for i, p in enumerate(pieces) if p[0] == "</s>"))]))


# --- the tokenizers

def gpt2_model(data, **options):
    vocab = json.loads((data / "tokenizer-gpt2/encoder.json").read_text())
    lines = (data / "tokenizer-gpt2/vocab.bpe").read_text().split("\n")[1:]
    return bpe(vocab, [line for line in lines if line], **options)


def gpt2_cases(data):
    end = added(50256, "<|endoftext|>")
    chat = [end, added(50257, "<|im_start|>"), added(50258, "<|im_end|>"),
            added(50259, "<tool_call>", special=False), added(50260, "<|mid|>", lstrip=True, rstrip=True)]
    nfc = {"type": "NFC"}
    yield "gpt2", whole(gpt2_model(data), byte_level(regex=True), tokens=[end])
    yield "roberta", whole(gpt2_model(data), byte_level(prefix=True, regex=True), tokens=[end, dict(chat[4], id=50257)], post={
        "type": "RobertaProcessing", "sep": ["<|endoftext|>", 50256], "cls": ["<|endoftext|>", 50256],
        "trim_offsets": True, "add_prefix_space": True})
    yield "qwen", whole(gpt2_model(data), sequence(split(QWEN), byte_level()), nfc, tokens=chat)
    yield "llama3", whole(gpt2_model(data, ignore_merges=True), sequence(split(CL100K), byte_level()),
                          post=template(before=[("<|im_start|>", 50257)]), tokens=chat)
    yield "o200k", whole(gpt2_model(data), sequence(split(O200K), byte_level()), tokens=chat)
    yield "deepseek3", whole(gpt2_model(data), sequence(*map(split, DEEPSEEK3), byte_level()), tokens=chat,
                             normalizer=sequence(key="normalizers"))


def odd_cases(data):
    """Parts that families rarely use, each around GPT-2's vocabulary."""
    pres = {
        "punctuation": [{"type": "Punctuation", "behavior": "Contiguous"}, {"type": "Digits",
                                                                          "individual_digits": False}],
        "bert": [{"type": "BertPreTokenizer"}],
        "whitespace": [{"type": "Whitespace"}],
        "blanks": [{"type": "WhitespaceSplit"}, {"type": "Digits", "individual_digits": True}],
        "delimiter": [{"type": "CharDelimiterSplit", "delimiter": "e"}, {"type": "FixedLength", "length": 7}],
        "merged": [split(r"\s", "MergedWithNext"), split(r"\p{L}", "MergedWithPrevious"), split(r"[aeiou]+", "Removed")],
        "inverted": [split(r"\w+", "Contiguous", invert=True), split(r"x*", "Isolated"), split(r"$", "Isolated")],
        "string": [{"type": "Split", "pattern": {"String": ". "}, "behavior": "MergedWithPrevious", "invert": False}],
    }
    for name, parts in pres.items():
        yield "pre-" + name, whole(gpt2_model(data), sequence(*parts, byte_level()))
    falcon = sequence({"type": "Punctuation", "behavior": "Contiguous"}, byte_level(regex=True),
                      {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]"))
    yield "pre-letters", whole(gpt2_model(data), falcon)
    steps = {
        "nfd": [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}],
        "nfkc": [{"type": "NFKC"}, {"type": "Strip", "strip_left": True, "strip_right": True}],
        "nfkd": [{"type": "NFKD"}, {"type": "Strip", "strip_left": False, "strip_right": True}],
        "nmt": [{"type": "Nmt"}, {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}],
    }
    word = gpt2_model(data)["vocab"]["word"]
    tokens = [added(50256, "<|endoftext|>"), added(50257, "ÉCOLE", special=False, normalized=True),
              added(word, "word", special=False, normalized=True, single_word=True)]
    for name, parts in steps.items():
        yield "norm-" + name, whole(gpt2_model(data), byte_level(regex=True),
                                    normalizer=sequence(*parts, key="normalizers"), tokens=tokens)


def gguf_cases(folder):
    """The vocabularies of llama.cpp's fixtures as tokenizer.json of their families."""
    pres = {
        "deepseek-coder": [*map(split, DEEPSEEK_CODER), {"type": "Digits", "individual_digits": True}],
        "falcon": [{"type": "Punctuation", "behavior": "Contiguous"}, byte_level(regex=True),
                   {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]")],
        "gpt-neox": [split(GPT2)],
        "starcoder": [{"type": "Digits", "individual_digits": True}, split(GPT2)],
    }
    for name, pre in pres.items():
        path = folder / f"ggml-vocab-{name}.gguf"
        pairs = read_gguf(path if path.exists() else path.with_suffix(".gguf.zst"))
        names, kinds = pairs["tokenizer.ggml.tokens"], pairs["tokenizer.ggml.token_type"]
        special = {i for i, kind in enumerate(kinds) if kind in (2, 3)}
        user = {i for i, kind in enumerate(kinds) if kind == 4}
        tokens = [added(i, names[i], special=i in special, normalized=name == "gpt-neox" and i in user)
                  for i in sorted(special | user)]
        behind = min(user, default=len(names))  # tokens that were added to a vocabulary of so many
        vocab = {text: i for i, text in enumerate(names) if i < behind or i not in special | user}
        if name != "falcon":
            pre = [*pre, byte_level()]
        yield name, whole(bpe(vocab, pairs["tokenizer.ggml.merges"]), sequence(*pre), tokens=tokens,
                          normalizer={"type": "NFC"} if name == "gpt-neox" else None)
    for name in ("llama-spm", "phi-3"):
        pairs = read_gguf(folder / f"ggml-vocab-{name}.gguf")
        pieces = list(zip(pairs["tokenizer.ggml.tokens"], pairs["tokenizer.ggml.scores"],
                          pairs["tokenizer.ggml.token_type"]))
        if name == "phi-3":
            case = sentencepiece_bpe(pieces, normalizer=SPM_NORMALIZER)
            for token in case["added_tokens"]:
                token["rstrip"] = token["content"].startswith("<|")
        else:
            case = sentencepiece_bpe(pieces, normalizer=SPM_NORMALIZER, post=template(before=[("<s>", 1)]))
        yield name, case


def sentencepiece_cases(data):
    pieces, _ = read_sentencepiece(data / "tokenizer-mistral/tokenizer.model.v1")
    yield "mistral", sentencepiece_bpe(pieces, normalizer=SPM_NORMALIZER, post=template(before=[("<s>", 1)]))
    pieces, _ = read_sentencepiece(data / "tokenizer-mistral/mistral_instruct_tokenizer_240323.model.v3")
    yield "mistral-v3", sentencepiece_bpe(pieces, pre=metaspace("first", False))
    yield "metaspace", sentencepiece_bpe(pieces, pre=metaspace("always"), decoder=sequence(
        {"type": "ByteFallback"}, metaspace("always"), key="decoders"))
    folder = data / "tokenizer-sentencepiece-test"
    yield "unigram", sentencepiece_unigram(folder / "test_model.model")
    yield "unigram-ja", sentencepiece_unigram(folder / "test_ja_model.model")


def tokenizer_cases(data):
    """(name, tokenizer.json as an object)"""
    yield from gpt2_cases(data)
    yield from odd_cases(data)
    yield from gguf_cases(data / "tokenizer-llamacpp-fixtures")
    yield from sentencepiece_cases(data)


# --- the texts

def unpacked(path):
    return subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout


def clipped(data, size=1 << 20):
    return data[:size].decode(errors="ignore").encode().replace(b"\0", b"")


def fixture_texts(data):
    text = (data / "tokenizer-llamacpp-fixtures/ggml-vocab-gpt-2.gguf.inp").read_bytes()
    return text.split(b"\n__ggml_vocab_test__\n")[:-1]


def odd_texts():
    """Short texts that put special tokens, blanks and rare letters side by side."""
    parts = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "<|mid|>", "<s>", "</s>", "<unk>", "[INST]",
             "<|end|>", "<|user|>", "word", "école", "ÉCOLE", "words", " ", "  ", "\t", "\n", "\r\n", "\u3000", "\u00a0",
             "a", "A", "ſ", "'s", "'S", "'ll", "don't", "1", "123", "4567", "½", "²", "Ⅷ", "३", ".", ", ", "...", "?!",
             "$", "€", "«", "e\u0301", "é", "Å", "ﬁ", "İ", "ß", "漢字", "かな", "カ\u3099", "한국", "ก็", "नमस्ते", "שלום",
             "مرحبا", "👍🏽", "👨‍👩‍👧", "🇩🇪", "\u200d", "\ufeff", "\u2581", "\u180e", "\x07", "Ġ", "Ã", "𝔘", "\U0010fffd"]
    random_parts = random.Random(20)
    return ["".join(random_parts.choices(parts, k=random_parts.randint(1, 12))).encode() for _ in range(3000)]


def text_cases(data):
    """(name, texts as bytes)"""
    yield "fixtures", fixture_texts(data)
    yield "odd", odd_texts()
    with zipfile.ZipFile(data / "udhr/udhr2.zip") as archive:
        files = sorted(info.filename for info in archive.infolist() if not info.is_dir())
        yield "udhr", [clipped(archive.read(name), 4096) for name in files]
    for name, path in {"english": "peps/peps.txt.zst", "mixed": "rust-rfcs/rust-rfcs.txt.zst",
                       "python": "code-python/python.txt.zst", "chinese": "chinese-poetry/tang.txt.zst"}.items():
        yield name, [clipped(unpacked(data / path))]
    for name, path in {"cpp": "code-cpp/cpp.txt", "shakespeare": "tinyshakespeare/input.txt",
                       "japanese": "japanese", "botchan": "botchan/botchan.txt"}.items():
        path = data / path
        if path.is_dir():
            path = next(path.glob("*.txt"))
        yield name, [clipped(path.read_bytes())]


def model_cases(data):
    """(name, path) of tokenizer.model files"""
    for path in sorted((data / "tokenizer-mistral").glob("*.model.v*")):
        yield "model-mistral-" + path.suffix[1:], path
    for path in sorted((data / "tokenizer-sentencepiece-test").glob("*.model")):
        yield "model-" + path.stem, path


def lines_of(texts):
    """What spm_encode takes one by one: lines, none empty, without what it reads as its own marks."""
    joined = b"\n".join(text.decode(errors="ignore").encode() for text in texts).replace(b"\r", b"")
    return [line for line in joined.split(b"\n") if line.strip()]
