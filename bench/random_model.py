"""Writes a mixture-of-experts model with random weights as a GGUF file that Choir and llama.cpp read.

random_model.py --shape S|M|L|O --type q8_0|q4_0|bf16|f32 --out FILE [--seed N] [--check CHOIR]

Architecture `llama` with experts, as Mixtral is exported; norms and routers are f32, all else has the type. The product
of a weight and a normed row is about as large as the row, and a block adds little to its input, so that different
tokens stay different and the experts are about equally busy. --check runs `choir forward` on random tokens and says how
busy the busiest expert is: a model whose router prefers two experts would make every figure wrong.
"""
import argparse
import json
import math
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import typing


class Shape(typing.NamedTuple):
    width: int
    expert_width: int
    layers: int
    heads: int
    kv_heads: int
    experts: int
    top_k: int
    vocab: int


SHAPES = {"S": Shape(512, 1792, 4, 8, 2, 8, 2, 8192),
          "M": Shape(1024, 3584, 10, 16, 4, 8, 2, 32000),
          "L": Shape(2048, 7168, 14, 16, 4, 8, 2, 32000),
          "O": Shape(2048, 1024, 12, 16, 4, 64, 8, 32000)}

BRANCH = 0.25  # what a block adds is small, or neighbours, which attend alike, become alike and choose the same experts
CONTEXT = 4096
ALIGNMENT = 32
CHUNK = 1 << 18  # blocks


# One type of numbers: `block` of them lie in `size` bytes. fill(rng, blocks, deviation) makes their bytes.
class NumberType(typing.NamedTuple):
    code: int       # ggml_type
    file_type: int  # general.file_type
    block: int
    size: int
    fill: typing.Callable


SIGN_ONLY = bytes(byte & 0x80 for byte in range(256))
NO_LEAST = bytes(0x81 if byte == 0x80 else byte for byte in range(256))  # encoders give -127 to 127


def put_scales(rng, data, size, scale):
    """Halves in front of each block: of random sign, and of a size between the power of two below `scale` and a
    quarter more."""
    count = len(data) // size
    high = struct.pack("<e", 2.0 ** math.floor(math.log2(scale)))[1]
    data[0::size] = rng.randbytes(count)
    data[1::size] = rng.randbytes(count).translate(bytes(high | sign for sign in SIGN_ONLY))


def fill_q8_0(rng, blocks, deviation):
    data = bytearray(rng.randbytes(34 * blocks).translate(NO_LEAST))
    put_scales(rng, data, 34, deviation / 73.3)  # deviation of -127 to 127
    return data


def fill_q4_0(rng, blocks, deviation):
    data = bytearray(rng.randbytes(18 * blocks))
    put_scales(rng, data, 18, deviation / 4.64)  # root of the mean square of -8 to 7; the scale's sign makes it even
    return data


def fill_float(bytes_each):
    """Numbers of random sign, even between a power of two and its double."""
    def fill(rng, count, deviation):
        exponent = round(math.log2(deviation / 1.53)) + 127  # 1.53: root of the mean square of 1 to 2
        data = bytearray(rng.randbytes(bytes_each * count))
        low = bytes((byte & 0x7F) | (exponent & 1) << 7 for byte in range(256))
        data[bytes_each - 2::bytes_each] = data[bytes_each - 2::bytes_each].translate(low)
        high = bytes(sign | exponent >> 1 for sign in SIGN_ONLY)
        data[bytes_each - 1::bytes_each] = data[bytes_each - 1::bytes_each].translate(high)
        return data
    return fill


TYPES = {"q8_0": NumberType(8, 7, 32, 34, fill_q8_0), "q4_0": NumberType(2, 2, 32, 18, fill_q4_0),
         "bf16": NumberType(30, 32, 1, 2, fill_float(2)), "f32": NumberType(0, 0, 1, 4, fill_float(4))}


class Tensor(typing.NamedTuple):
    name: str
    shape: tuple       # row-major; GGUF has it backwards
    type: str
    deviation: float   # 0: all ones
    read: float = 1.0  # share that one token needs

    def numbers(self):
        return math.prod(self.shape)

    def bytes(self):
        kind = TYPES[self.type]
        return self.numbers() // kind.block * kind.size


def tensors_of(shape, kind):
    width, inner = shape.width, shape.expert_width
    keys = width // shape.heads * shape.kv_heads
    share = shape.top_k / shape.experts

    def matrix(name, *dimensions, gain=1.0, read=1.0):
        return Tensor(name, dimensions, kind, gain * dimensions[-1] ** -0.5, read)

    def norm(name):
        return Tensor(name, (width,), "f32", 0)

    yield Tensor("token_embd.weight", (shape.vocab, width), kind, 1.0, 1 / shape.vocab)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        yield norm(block + "attn_norm.weight")
        yield matrix(block + "attn_q.weight", width, width)
        yield matrix(block + "attn_k.weight", keys, width)
        yield matrix(block + "attn_v.weight", keys, width)
        yield matrix(block + "attn_output.weight", width, width, gain=BRANCH)
        yield norm(block + "ffn_norm.weight")
        yield Tensor(block + "ffn_gate_inp.weight", (shape.experts, width), "f32", width ** -0.5)
        yield matrix(block + "ffn_gate_exps.weight", shape.experts, inner, width, read=share)
        yield matrix(block + "ffn_up_exps.weight", shape.experts, inner, width, read=share)
        yield matrix(block + "ffn_down_exps.weight", shape.experts, width, inner, gain=BRANCH, read=share)
    yield norm("output_norm.weight")
    yield matrix("output.weight", shape.vocab, width)


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(item):
    """Type and bytes of a metadata value."""
    if isinstance(item, bool):
        return 7, struct.pack("<?", item)
    if isinstance(item, int):
        return 4, struct.pack("<I", item)
    if isinstance(item, float):
        return 6, struct.pack("<f", item)
    if isinstance(item, str):
        return 8, string(item)
    if isinstance(item[0], int):
        return 9, struct.pack(f"<IQ{len(item)}i", 5, len(item), *item)  # llama.cpp wants them signed
    parts = [value(part) for part in item]
    return 9, struct.pack("<IQ", parts[0][0], len(parts)) + b"".join(data for _, data in parts)


def vocabulary(size):
    """A SentencePiece vocabulary: three of control, the bytes, then made-up words."""
    words = [f"\u2581{number:x}" for number in range(size - 259)]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    types = [2, 3, 3] + [6] * 256 + [1] * len(words)
    return tokens, types


def metadata(shape, kind):
    tokens, types = vocabulary(shape.vocab)
    llama = {"block_count": shape.layers, "context_length": CONTEXT, "embedding_length": shape.width,
             "feed_forward_length": shape.expert_width, "vocab_size": shape.vocab,
             "attention.head_count": shape.heads, "attention.head_count_kv": shape.kv_heads,
             "attention.layer_norm_rms_epsilon": 1e-5, "rope.dimension_count": shape.width // shape.heads,
             "rope.freq_base": 10000.0, "expert_count": shape.experts, "expert_used_count": shape.top_k}
    return {"general.architecture": "llama", "general.name": "random weights",
            "general.file_type": TYPES[kind].file_type, "general.alignment": ALIGNMENT,
            **{"llama." + key: number for key, number in llama.items()},
            "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [float(-number) for number in range(shape.vocab)],
            "tokenizer.ggml.token_type": types, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.unknown_token_id": 0}


def header(entries, tensors):
    data = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(entries))
    parts = [data]
    for key, item in entries.items():
        code, content = value(item)
        parts += [string(key), struct.pack("<I", code), content]
    offset = 0
    for tensor in tensors:
        backwards = tensor.shape[::-1]
        parts.append(string(tensor.name) + struct.pack(f"<I{len(backwards)}QIQ", len(backwards), *backwards,
                                                       TYPES[tensor.type].code, offset))
        offset += padded(tensor.bytes())
    data = b"".join(parts)
    return data + bytes(padded(len(data)) - len(data))


def padded(size):
    return -(-size // ALIGNMENT) * ALIGNMENT


def write_tensor(out, tensor, rng):
    kind = TYPES[tensor.type]
    if tensor.deviation == 0:
        out.write(struct.pack("<f", 1.0) * tensor.numbers())
    else:
        blocks = tensor.numbers() // kind.block
        for begin in range(0, blocks, CHUNK):
            out.write(kind.fill(rng, min(CHUNK, blocks - begin), tensor.deviation))
    out.write(bytes(padded(tensor.bytes()) - tensor.bytes()))


def write_model(path, shape, kind, seed):
    tensors = list(tensors_of(shape, kind))
    rng = random.Random(seed)
    beside = path.with_name(path.name + ".part")
    with open(beside, "wb") as out:
        out.write(header(metadata(shape, kind), tensors))
        for tensor in tensors:
            write_tensor(out, tensor, rng)
    beside.rename(path)
    return {"model": path.name, "parameters": sum(tensor.numbers() for tensor in tensors),
            "bytes": path.stat().st_size,
            "bytes_per_token": round(sum(tensor.bytes() * tensor.read for tensor in tensors))}


def read_safetensors(path):
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(size)), file.read()


def check_routing(choir, path, vocab, seed, tokens=512):
    """The tokens of the busiest expert of all layers over the even share."""
    rng = random.Random(seed)
    ids = struct.pack(f"<{tokens}q", *(rng.randrange(3, vocab) for _ in range(tokens)))
    about = json.dumps({"input_ids": {"dtype": "I64", "shape": [1, tokens], "data_offsets": [0, len(ids)]}}).encode()
    with tempfile.TemporaryDirectory() as folder:
        given, answer = pathlib.Path(folder) / "ids.safetensors", pathlib.Path(folder) / "answer.safetensors"
        given.write_bytes(struct.pack("<Q", len(about)) + about + ids)
        command = [choir, "forward", path, "--ids", given, "--out", answer, "--trace"]
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
        return busiest(*read_safetensors(answer))


def busiest(about, data):
    worst = 0.0
    for name, entry in about.items():
        if not name.startswith("topk_idx."):
            continue
        begin, end = entry["data_offsets"]
        chosen = struct.unpack(f"<{(end - begin) // 8}q", data[begin:end])
        experts = about["router_logits." + name.split(".")[1]]["shape"][1]
        worst = max(worst, max(chosen.count(expert) for expert in range(experts)) * experts / len(chosen))
    return worst


def main():
    parser = argparse.ArgumentParser(description="Writes a mixture-of-experts model with random weights as GGUF.")
    parser.add_argument("--shape", required=True, choices=SHAPES,
                        help="0.1, 1 and 5 GB in q8_0 with 8 experts; O: 5 GB with 64")
    parser.add_argument("--type", required=True, choices=TYPES)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check", metavar="CHOIR", help="the program, to see how evenly the model routes")
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    report = write_model(args.out, shape, args.type, args.seed)
    if args.check:
        report["busiest_over_even"] = round(check_routing(args.check, args.out, shape.vocab, args.seed), 2)
    print(json.dumps(report))


if __name__ == "__main__":
    sys.exit(main())
