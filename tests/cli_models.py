"""Tiny Mixtral directories and safetensors files, written without any package."""
import array
import json
import math
import random
import struct

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4}


def tensor(dtype, shape, values):
    """A tensor is (dtype, shape, bytes)."""
    code = {"F64": "d", "F32": "f", "I64": "q", "I32": "i"}[dtype]
    return dtype, list(shape), array.array(code, values).tobytes()


def filled(like, value):
    dtype, shape, _ = like
    return tensor(dtype, shape, [value] * math.prod(shape))


def header_of(tensors):
    header, begin = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + len(data)]}
        begin += len(data)
    return header


def safetensors_bytes(tensors, header=None):
    text = json.dumps(header or header_of(tensors)).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values())


def write_safetensors(path, tensors):
    path.write_bytes(safetensors_bytes(tensors))


def read_safetensors(path):
    data = path.read_bytes()
    length, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    body = data[8 + length:]
    return {name: (entry["dtype"], entry["shape"], body[slice(*entry["data_offsets"])])
            for name, entry in header.items()}


def numbers(tensor_read):
    dtype, _, data = tensor_read
    return array.array({"F32": "f", "I64": "q"}[dtype], data).tolist()


def sentencepiece(pieces):
    """A tokenizer.model, a BPE: <unk>, <s>, </s>, then the pieces with falling scores."""
    def field(number, data):
        return bytes([number << 3 | 2, len(data)]) + data

    tokens = [("<unk>", 0, 2), ("<s>", 0, 3), ("</s>", 0, 3)] + [(p, -i, 1) for i, p in enumerate(pieces, 1)]
    data = b"".join(field(1, field(1, text.encode()) + struct.pack("<Bf", 2 << 3 | 5, score) + bytes([3 << 3, kind]))
                    for text, score, kind in tokens)
    return data + field(2, bytes([3 << 3, 2])) + field(3, bytes([4 << 3, 0]))


def mixtral_config(vocab, **changes):
    config = {"model_type": "mixtral", "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 2,
              "num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 8, "num_experts_per_tok": 2,
              "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": vocab,
              "tie_word_embeddings": False, "hidden_act": "silu"}
    return config | changes


def mixtral_shapes(config):
    d, f, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = d // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": [v, d], "model.norm.weight": [d], "lm_head.weight": [v, d]}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name, rows in {"q_proj": d, "k_proj": kv, "v_proj": kv, "o_proj": d}.items():
            shapes[f"{at}self_attn.{name}.weight"] = [rows, d]
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{at}{name}.weight"] = [d]
        shapes[f"{at}block_sparse_moe.gate.weight"] = [config["num_local_experts"], d]
        for e in range(config["num_local_experts"]):
            for name, shape in {"w1": [f, d], "w2": [d, f], "w3": [f, d]}.items():
                shapes[f"{at}block_sparse_moe.experts.{e}.{name}.weight"] = shape
    return shapes


def random_tensors(config, seed=1):
    draw = random.Random(seed)
    return {name: tensor("F32", shape, [draw.gauss(1 if len(shape) == 1 else 0, 0.1 if len(shape) == 1 else 0.4)
                                        for _ in range(math.prod(shape))])
            for name, shape in mixtral_shapes(config).items()}


def write_model(directory, config, tensors, tokenizer=None):
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    write_safetensors(directory / "model.safetensors", tensors)
    if tokenizer:
        (directory / "tokenizer.json").write_bytes(tokenizer)
