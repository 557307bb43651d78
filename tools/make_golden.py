"""Writes tests/golden: tiny models of families and layouts with the numbers that they must give.

make_golden.py OUT [CASE...]

Needs numpy. A case is a directory: config.json, model.safetensors in one of the layouts that are in the world, and
reference.safetensors with A.* (one sequence) and G.* (greedy tokens; every step is computed from its whole text). The
numbers are those of golden_forward.py on the weights as stored. Seeds are searched so that no router and no greedy
token stands near a tie.
"""
import json
import pathlib
import struct
import sys

import numpy as np

from golden_forward import Model

PROMPT, STEPS = 7, 16
ROUTER_MARGIN, TOKEN_MARGIN = 1e-3, 1e-2
FP4 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6])


def bf16_bits(x):
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def e4m3_values():
    codes = np.arange(256)
    exponent, fraction = (codes >> 3) & 15, codes & 7
    value = np.where(exponent > 0, (1 + fraction / 8) * 2.0 ** (exponent - 7), fraction / 8 * 2.0 ** -6)
    value[(codes & 127) == 127] = np.nan
    return np.where(codes > 127, -value, value)


class Plain:
    """A tensor as it is, in one number format."""

    def __init__(self, dtype):
        self.dtype = dtype

    def stored(self, name, x):
        if self.dtype == "BF16":
            return {name: ("BF16", bf16_bits(x))}, from_bf16(bf16_bits(x)).astype(float)
        narrow = x.astype({"F32": np.float32, "F16": np.float16}[self.dtype])
        return {name: (self.dtype, narrow)}, narrow.astype(float)


class Fp8:
    """Matrices of layers as e4m3 with a factor for each block."""

    def __init__(self, rows, cols):
        self.block = rows, cols

    def stored(self, name, x):
        if x.ndim != 2 or ".layers." not in name or ".gate.weight" in name:
            return Plain("BF16").stored(name, x)
        values = e4m3_values()
        codes, wide = np.zeros(x.shape, np.uint8), np.zeros(x.shape)
        high, across = self.block
        scales = np.zeros((-(-x.shape[0] // high), -(-x.shape[1] // across)), np.float32)
        for i, j in np.ndindex(scales.shape):
            place = slice(i * high, (i + 1) * high), slice(j * across, (j + 1) * across)
            scales[i, j] = np.abs(x[place]).max() / 400
            codes[place] = np.nanargmin(np.abs(x[place][..., None] / scales[i, j] - values), -1)
            wide[place] = values[codes[place]] * float(scales[i, j])
        return {name: ("F8_E4M3", codes), name + "_scale_inv": ("F32", scales)}, wide


def mxfp4(x):
    """Nibble pairs [...,D/32,16], scales [...,D/32], and what they mean."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    exponent = np.floor(np.log2(np.abs(blocks).max(-1))).astype(int) - 2
    codes = np.abs(blocks[..., None] / 2.0 ** exponent[..., None, None] - FP4).argmin(-1).astype(np.uint8)
    wide = FP4[codes] * 2.0 ** exponent[..., None]
    return codes[..., 0::2] | codes[..., 1::2] << 4, (exponent + 127).astype(np.uint8), wide.reshape(x.shape)


def experts_of(config):
    return config.get("num_local_experts", config.get("num_experts", config.get("n_routed_experts", 0)))


def shapes_of(config):
    """Every tensor of a model, one for each matrix of each expert."""
    c, family, model = config, config["model_type"], Model(config, {})
    d, v = c["hidden_size"], c["vocab_size"]
    heads, shared = c["num_attention_heads"], c["num_key_value_heads"]
    width = c.get("head_dim") or d // heads
    shapes = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,)}
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = v, d
    if family == "phimoe":
        shapes |= {"model.norm.bias": (d,), "lm_head.bias": (v,)}
    for layer in range(c["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{at}{norm}.weight"] = (d,)
            if family == "phimoe":
                shapes[f"{at}{norm}.bias"] = (d,)
        shapes |= latent_shapes(c, at) if family.startswith("deepseek") else {
            f"{at}self_attn.q_proj.weight": (heads * width, d), f"{at}self_attn.k_proj.weight": (shared * width, d),
            f"{at}self_attn.v_proj.weight": (shared * width, d), f"{at}self_attn.o_proj.weight": (d, heads * width)}
        for name in "qkvo":
            if name in {"qwen2": "qkv", "qwen2_moe": "qkv", "gpt_oss": "qkvo"}.get(
                    family, "qkvo" if c.get("attention_bias") else ""):
                rows = d if name == "o" else (heads if name == "q" else shared) * width
                shapes[f"{at}self_attn.{name}_proj.bias"] = (rows,)
        if family == "gpt_oss":
            shapes[f"{at}self_attn.sinks"] = (heads,)
        if family in ("qwen3", "qwen3_moe"):
            shapes |= {f"{at}self_attn.{n}_norm.weight": (width,) for n in "qk"}
        if family == "olmoe":
            shapes |= {f"{at}self_attn.q_norm.weight": (heads * width,), f"{at}self_attn.k_norm.weight":
                       (shared * width,)}
        shapes |= mixture_shapes(c, at, model.has_experts(layer))
    return shapes


def latent_shapes(c, at):
    d, heads, rank = c["hidden_size"], c["num_attention_heads"], c["kv_lora_rank"]
    nope, turned, value = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
    at += "self_attn."
    shapes = {f"{at}kv_a_proj_with_mqa.weight": (rank + turned, d), f"{at}kv_a_layernorm.weight": (rank,),
              f"{at}kv_b_proj.weight": (heads * (nope + value), rank), f"{at}o_proj.weight": (d, heads * value)}
    if c["q_lora_rank"] is None:
        return shapes | {f"{at}q_proj.weight": (heads * (nope + turned), d)}
    return shapes | {f"{at}q_a_proj.weight": (c["q_lora_rank"], d), f"{at}q_a_layernorm.weight": (c["q_lora_rank"],),
                     f"{at}q_b_proj.weight": (heads * (nope + turned), c["q_lora_rank"])}


def network_shapes(at, names, d, f, biased=False):
    sizes = {names[0]: (f, d), names[1]: (f, d), names[2]: (d, f)}
    shapes = {f"{at}{name}.weight": size for name, size in sizes.items()}
    return shapes | ({f"{at}{name}.bias": size[:1] for name, size in sizes.items()} if biased else {})


def mixture_shapes(c, at, mixed):
    family, d = c["model_type"], c["hidden_size"]
    plain = "gate_proj", "up_proj", "down_proj"
    if not mixed:
        return network_shapes(at + "mlp.", plain, d, c["intermediate_size"])
    names = ("w1", "w3", "w2") if family in ("mixtral", "phimoe") else plain
    at += "block_sparse_moe." if family in ("mixtral", "phimoe", "granitemoe") else "mlp."
    f, experts = c.get("moe_intermediate_size", c["intermediate_size"]), experts_of(c)
    router = {"gpt_oss": "router", "granitemoe": "router.layer"}.get(family, "gate")
    shapes = {f"{at}{router}.weight": (experts, d)}
    if family == "gpt_oss":
        shapes[f"{at}router.bias"] = (experts,)
    if family == "deepseek_v3":
        shapes[f"{at}gate.e_score_correction_bias"] = (experts,)
    for e in range(experts):
        shapes |= network_shapes(f"{at}experts.{e}.", names, d, f, family == "gpt_oss")
    if family == "qwen2_moe":
        shapes |= network_shapes(at + "shared_expert.", plain, d, c["shared_expert_intermediate_size"])
        shapes[at + "shared_expert_gate.weight"] = 1, d
    if c.get("n_shared_experts"):
        shapes |= network_shapes(at + "shared_experts.", plain, d, f * c["n_shared_experts"])
    return shapes


def random_tensors(config, rng):
    """Gains that make activations of the order of 1, routers that decide, and norms that are neither 1 nor 0."""
    tensors = {}
    for name, shape in shapes_of(config).items():
        x = rng.standard_normal(shape)
        if len(shape) == 2:
            router = name.endswith(("gate.weight", "router.weight", "router.layer.weight"))
            x *= (2 if router else 1.5) / np.sqrt(shape[1])
        elif name.endswith("norm.weight"):
            x = 1 + 0.2 * x
        elif "sinks" not in name:
            x *= 0.3
        tensors[name] = x
    return tensors


def stack(tensors, config, layout):
    """The experts' tensors of each layer in the layout that their family has: {stored name: array or blocks}, and by
    expert the numbers as they then are."""
    stored, wide = {}, {}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        at += "block_sparse_moe." if config["model_type"] == "granitemoe" else "mlp."
        if f"{at}experts.0.gate_proj.weight" not in tensors:
            continue
        every = range(experts_of(config))

        def all_of(name):
            return np.stack([tensors.pop(f"{at}experts.{e}.{name}") for e in every])

        gate, up, down = (all_of(f"{n}_proj.weight") for n in ("gate", "up", "down"))
        if layout == "mxfp4":
            both = np.stack([gate, up], 2).reshape(len(gate), -1, gate.shape[2])
            for name, x in ("gate_up_proj", both), ("down_proj", down):
                blocks, scales, meant = mxfp4(x)
                stored |= {f"{at}experts.{name}_blocks": blocks, f"{at}experts.{name}_scales": scales}
                both, down = (meant, down) if name == "gate_up_proj" else (both, meant)
            gate, up = both[:, 0::2], both[:, 1::2]
        elif layout == "transposed":
            gate, up, down = (from_bf16(bf16_bits(x)).astype(float) for x in (gate, up, down))
            both = np.stack([gate, up], 2).reshape(len(gate), -1, gate.shape[2])
            stored[f"{at}experts.gate_up_proj"] = both.swapaxes(1, 2)
            stored[f"{at}experts.down_proj"] = down.swapaxes(1, 2)
        else:
            gate, up, down = (from_bf16(bf16_bits(x)).astype(float) for x in (gate, up, down))
            names = ("input_linear.weight", "output_linear.weight") if layout == "granite" else (
                "experts.gate_up_proj", "experts.down_proj")
            stored |= {at + names[0]: np.concatenate([gate, up], 1), at + names[1]: down}
        for e in every:
            wide |= {f"{at}experts.{e}.gate_proj.weight": gate[e], f"{at}experts.{e}.up_proj.weight": up[e],
                     f"{at}experts.{e}.down_proj.weight": down[e]}
        if config["model_type"] == "gpt_oss":
            gate, up, down = (from_bf16(bf16_bits(all_of(f"{n}_proj.bias"))).astype(float)
                              for n in ("gate", "up", "down"))
            stored[f"{at}experts.gate_up_proj_bias"] = np.stack([gate, up], 2).reshape(len(gate), -1)
            stored[f"{at}experts.down_proj_bias"] = down
            for e in every:
                wide |= {f"{at}experts.{e}.gate_proj.bias": gate[e], f"{at}experts.{e}.up_proj.bias": up[e],
                         f"{at}experts.{e}.down_proj.bias": down[e]}
    return {name: ("U8", x) if x.dtype == np.uint8 else ("BF16", bf16_bits(x)) for name, x in stored.items()}, wide


def write_safetensors(path, tensors):
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, x) in sorted(tensors.items(), key=lambda item: (-item[1][1].itemsize, item[0])):
        data = np.ascontiguousarray(x).tobytes()
        header[name] = {"dtype": dtype, "shape": list(x.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def greedy(model, prompt):
    ids, rows = list(prompt), []
    for _ in range(STEPS):
        rows.append(model.forward(np.array(ids))[0][-1])
        ids.append(int(rows[-1].argmax()))
    return ids[len(prompt):], np.array(rows)


def reference(model, rng, length):
    vocab = model.c["vocab_size"]
    ids = rng.integers(0, vocab, length)
    logits, hidden, trace = model.forward(ids)
    out = {"A.input_ids": ("I64", ids[None]), "A.logits": ("F32", logits[None].astype(np.float32))}
    out |= {f"A.hidden.{i}": ("F32", h[None].astype(np.float32)) for i, h in enumerate(hidden)}
    for layer, (scores, experts, weights) in trace.items():
        out |= {f"A.router_logits.{layer}": ("F32", scores.astype(np.float32)), f"A.topk_idx.{layer}": ("I64", experts),
                f"A.topk_weight.{layer}": ("F32", weights.astype(np.float32))}
    prompt = rng.integers(0, vocab, PROMPT)
    tokens, rows = greedy(model, prompt)
    best_two = np.sort(rows, 1)[:, -2:]
    out |= {"G.prompt": ("I64", prompt[None]), "G.tokens": ("I64", np.array(tokens)),
            "G.step_logits": ("F32", rows.astype(np.float32))}
    return out, (best_two[:, 1] - best_two[:, 0]).min()


def make(name, case, out):
    config = {"hidden_act": "silu", "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
              "tie_word_embeddings": False, "vocab_size": 61} | case["config"]
    layout = case.get("layout", Plain("F32"))
    for seed in range(1000):
        rng = np.random.default_rng([seed, *name.encode()])
        tensors = random_tensors(config, rng)
        stored, wide = stack(tensors, config, layout) if isinstance(layout, str) else ({}, {})
        for key, x in tensors.items():
            kind = layout if not isinstance(layout, str) else Plain("BF16")
            files, wide[key] = (Plain("F32") if key.endswith("correction_bias") else kind).stored(key, x)
            stored |= files
        model = Model(config, wide)
        numbers, token_margin = reference(model, rng, case.get("length", 20))
        if model.margin > ROUTER_MARGIN and token_margin > TOKEN_MARGIN:
            break
    directory = out / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config | case.get("said", {}), indent=1, sort_keys=True) + "\n")
    write_safetensors(directory / "model.safetensors", stored)
    write_safetensors(directory / "reference.safetensors", numbers)
    size = sum(p.stat().st_size for p in directory.iterdir())
    print(f"{name}: seed {seed}, router margin {model.margin:.1e}, token margin {token_margin:.1e}, {size} bytes")


BLOCK = {"hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2}
GPT_OSS = BLOCK | {"model_type": "gpt_oss", "hidden_size": 32, "intermediate_size": 32, "head_dim": 10,
                   "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 5, "swiglu_limit": 1.5,
                   "attention_bias": True, "rope_theta": 100.0, "layer_types": ["sliding_attention", "full_attention"],
                   "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16,
                                    "beta_fast": 8.0, "beta_slow": 1.0, "truncate": False}}
LATENT = BLOCK | {"num_attention_heads": 3, "num_key_value_heads": 3, "kv_lora_rank": 10, "q_lora_rank": 12,
                  "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5, "moe_intermediate_size": 10,
                  "n_routed_experts": 12, "num_experts_per_tok": 3, "first_k_dense_replace": 1, "n_group": 4,
                  "topk_group": 2, "rms_norm_eps": 1e-6}
CASES = {
    "llama": {"config": BLOCK | {"model_type": "llama", "attention_bias": True, "tie_word_embeddings": True,
                                 "rope_scaling": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
                                                  "high_freq_factor": 4.0, "original_max_position_embeddings": 32}},
              "layout": Plain("BF16")},
    "mistral": {"config": BLOCK | {"model_type": "mistral", "head_dim": 10, "sliding_window": 5}},
    "qwen2": {"config": BLOCK | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 6,
                                 "max_window_layers": 1}, "layout": Plain("F16")},
    "qwen3": {"config": BLOCK | {"model_type": "qwen3", "head_dim": 14, "num_key_value_heads": 1, "rope_theta": 100.0,
                                 "rope_scaling": {"rope_type": "yarn", "factor": 4.0,
                                                  "original_max_position_embeddings": 20}}},
    "qwen2_moe": {"config": BLOCK | {"model_type": "qwen2_moe", "num_experts": 6, "num_experts_per_tok": 3,
                                     "num_hidden_layers": 4, "mlp_only_layers": [3], "decoder_sparse_step": 2,
                                     "moe_intermediate_size": 12, "shared_expert_intermediate_size": 14,
                                     "norm_topk_prob": True, "qkv_bias": True, "use_sliding_window": True,
                                     "sliding_window": 7, "layer_types": ["full_attention", "sliding_attention"] * 2},
                  "layout": "stacked"},
    "olmoe": {"config": BLOCK | {"model_type": "olmoe", "num_experts": 6, "num_experts_per_tok": 2, "clip_qkv": 0.8,
                                 "norm_topk_prob": True}, "layout": Plain("F16")},
    "deepseek_v2": {"config": LATENT | {"model_type": "deepseek_v2", "topk_method": "group_limited_greedy",
                                        "num_experts_per_tok": 2, "topk_group": 1,
                                        "n_shared_experts": 2, "norm_topk_prob": False, "routed_scaling_factor": 3.0,
                                        "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "mscale": 0.7,
                                                         "mscale_all_dim": 0.7, "beta_fast": 32, "beta_slow": 1,
                                                         "original_max_position_embeddings": 8}}},
    "deepseek_v3": {"config": LATENT | {"model_type": "deepseek_v3", "n_shared_experts": 1, "norm_topk_prob": True,
                                        "routed_scaling_factor": 2.5},
                    "layout": Fp8(16, 8),
                    "said": {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3",
                                                     "weight_block_size": [16, 8]}}},
    "phimoe": {"config": BLOCK | {"model_type": "phimoe", "num_local_experts": 6, "num_experts_per_tok": 2,
                                  "attention_bias": True, "lm_head_bias": True, "router_jitter_noise": 0.05,
                                  "sliding_window": 18,
                                  "rope_scaling": {"rope_type": "longrope", "short_factor": [1.0, 1.2, 1.5],
                                                   "long_factor": [1.5, 3.0, 6.0], "short_mscale": 1.1,
                                                   "long_mscale": 1.3, "original_max_position_embeddings": 16}}},
    "gpt_oss": {"config": GPT_OSS, "layout": "transposed"},
    "gpt_oss_mxfp4": {"config": GPT_OSS, "layout": "mxfp4", "length": 24,
                      "said": {"quantization_config": {"quant_method": "mxfp4"}}},
    "granitemoe": {"config": BLOCK | {"model_type": "granitemoe", "num_local_experts": 5, "num_experts_per_tok": 2,
                                      "embedding_multiplier": 3.0, "attention_multiplier": 0.25,
                                      "residual_multiplier": 0.6, "logits_scaling": 2.0}, "layout": "granite"},
}


def main():
    out = pathlib.Path(sys.argv[1])
    for name, case in CASES.items():
        if len(sys.argv) == 2 or name in sys.argv[2:]:
            make(name, case, out)


if __name__ == "__main__":
    main()
