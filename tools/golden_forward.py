"""Decoders of many families as plain numpy in double precision, one token after the other where that is plainer: what
tests/golden is made with, and written without a look at the engine. A model is its config.json as a dict and its
tensors by their names on disk, one for each matrix of each expert.

Sources: the modelling code of huggingface/transformers (4.57), of deepseek-ai/DeepSeek-V2 and V3, and of openai/gpt-oss.
"""
import math

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def layer_norm(x, weight, bias, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + eps) * weight + bias


def best(values, count):
    """Indices of the largest values; of equal ones the first."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]


class Rope:
    """Frequencies, and the factor on cos and sin."""

    def __init__(self, config, width, length):
        spec = config.get("rope_scaling") or {}
        theta = config["rope_theta"]
        self.inverse = np.array([theta ** (-2 * i / width) for i in range(width // 2)])
        self.factor = 1.0
        kind = spec.get("rope_type", "default")
        if kind != "default":
            getattr(self, kind)(spec, config, width, length)

    def linear(self, spec, config, width, length):
        self.inverse = self.inverse / spec["factor"]

    def yarn(self, spec, config, width, length):
        theta, factor = config["rope_theta"], spec["factor"]
        original = spec.get("original_max_position_embeddings", config["max_position_embeddings"])

        def turns(count):
            return width * math.log(original / (count * 2 * math.pi)) / (2 * math.log(theta))

        low, high = turns(spec.get("beta_fast", 32)), turns(spec.get("beta_slow", 1))
        if spec.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        if low == high:
            high += 0.001
        ramp = np.clip((np.arange(width // 2) - low) / (high - low), 0, 1)
        self.inverse = self.inverse / factor * ramp + self.inverse * (1 - ramp)

        def growth(m):
            return 0.1 * m * math.log(factor) + 1 if factor > 1 else 1

        if spec.get("mscale") and spec.get("mscale_all_dim"):
            self.factor = growth(spec["mscale"]) / growth(spec["mscale_all_dim"])
        else:
            self.factor = growth(1)

    def longrope(self, spec, config, width, length):
        longer = length > spec["original_max_position_embeddings"]
        self.inverse = self.inverse / np.array(spec["long_factor" if longer else "short_factor"])
        self.factor = spec["long_mscale" if longer else "short_mscale"]

    def llama3(self, spec, config, width, length):
        original = spec["original_max_position_embeddings"]
        low, high = original / spec["low_freq_factor"], original / spec["high_freq_factor"]
        for i, inverse in enumerate(self.inverse):
            wave = 2 * math.pi / inverse
            slowed = inverse / spec["factor"]
            smooth = (original / wave - spec["low_freq_factor"]) / (spec["high_freq_factor"] - spec["low_freq_factor"])
            if wave > low:
                self.inverse[i] = slowed
            elif wave >= high:
                self.inverse[i] = (1 - smooth) * slowed + smooth * inverse

    def turn(self, x, neighbours):
        """x (T, width), a head of each position."""
        angle = np.outer(np.arange(len(x)), self.inverse)
        cos, sin = np.cos(angle) * self.factor, np.sin(angle) * self.factor
        half = x.shape[1] // 2
        a, b = (x[:, 0::2], x[:, 1::2]) if neighbours else (x[:, :half], x[:, half:])
        turned = a * cos - b * sin, b * cos + a * sin
        if not neighbours:
            return np.concatenate(turned, 1)
        out = np.empty_like(x)
        out[:, 0::2], out[:, 1::2] = turned
        return out


def attend(q, k, v, scale, window=None, sink=None):
    """One head: q, k (T,W), v (T,U)."""
    length = len(q)
    scores = q @ k.T * scale
    i, j = np.arange(length)[:, None], np.arange(length)[None, :]
    seen = (j <= i) & ((i - j < window) if window else True)
    scores = np.where(seen, scores, -np.inf)
    if sink is not None:  # one more column, without a value
        scores = np.concatenate([scores, np.full((length, 1), sink)], 1)
    return softmax(scores)[:, :length] @ v


class Model:
    def __init__(self, config, tensors):
        self.c, self.w, self.family = config, tensors, config["model_type"]
        self.margin = math.inf  # between what a router takes and what it leaves

    def linear(self, x, name):
        return x @ self.w[name + ".weight"].T + self.w.get(name + ".bias", 0)

    def norm(self, x, name):
        if name + ".bias" in self.w:
            return layer_norm(x, self.w[name + ".weight"], self.w[name + ".bias"], self.c["rms_norm_eps"])
        return rms_norm(x, self.w[name + ".weight"], self.c["rms_norm_eps"])

    def window(self, layer):
        c = self.c
        if "layer_types" in c:
            return c["sliding_window"] if c["layer_types"][layer] == "sliding_attention" else None
        if self.family in ("qwen2", "qwen3"):
            return c["sliding_window"] if c.get("use_sliding_window") and layer >= c["max_window_layers"] else None
        if self.family in ("mistral", "mixtral", "phimoe"):
            return c.get("sliding_window")
        return None

    def attention(self, layer, x):
        c, at = self.c, f"model.layers.{layer}.self_attn."
        heads, shared = c["num_attention_heads"], c["num_key_value_heads"]
        width = c.get("head_dim") or c["hidden_size"] // heads
        q, k, v = (self.linear(x, at + n) for n in ("q_proj", "k_proj", "v_proj"))
        if self.family == "olmoe":  # all heads together
            q = rms_norm(q, self.w[at + "q_norm.weight"], c["rms_norm_eps"])
            k = rms_norm(k, self.w[at + "k_norm.weight"], c["rms_norm_eps"])
            if c.get("clip_qkv"):
                q, k, v = (np.clip(m, -c["clip_qkv"], c["clip_qkv"]) for m in (q, k, v))
        rope = Rope(c, width, len(x))
        scale = c.get("attention_multiplier", width ** -0.5)

        def head(m, h, norm=None):
            part = m[:, h * width:(h + 1) * width]
            if self.family == "qwen3" or self.family == "qwen3_moe":
                part = rms_norm(part, self.w[f"{at}{norm}.weight"], c["rms_norm_eps"]) if norm else part
            return part

        mixed = []
        for h in range(heads):
            from_head = h // (heads // shared)
            mixed.append(attend(rope.turn(head(q, h, "q_norm"), False), rope.turn(head(k, from_head, "k_norm"), False),
                                head(v, from_head), scale, self.window(layer),
                                self.w[at + "sinks"][h] if at + "sinks" in self.w else None))
        return self.linear(np.concatenate(mixed, 1), at + "o_proj")

    def latent_attention(self, layer, x):
        c, at = self.c, f"model.layers.{layer}.self_attn."
        nope, turned, value, rank = (c[k] for k in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
                                                    "kv_lora_rank"))
        if c["q_lora_rank"] is None:
            q = self.linear(x, at + "q_proj")
        else:
            q = self.linear(rms_norm(self.linear(x, at + "q_a_proj"), self.w[at + "q_a_layernorm.weight"], 1e-6),
                            at + "q_b_proj")
        squeezed = self.linear(x, at + "kv_a_proj_with_mqa")
        rope = Rope(c, turned, len(x))
        k_rope = rope.turn(squeezed[:, rank:], True)
        expanded = self.linear(rms_norm(squeezed[:, :rank], self.w[at + "kv_a_layernorm.weight"], 1e-6),
                               at + "kv_b_proj")
        scale = (nope + turned) ** -0.5
        spec = c.get("rope_scaling") or {}
        if spec.get("mscale_all_dim") and spec["factor"] > 1:
            scale *= (0.1 * spec["mscale_all_dim"] * math.log(spec["factor"]) + 1) ** 2
        mixed = []
        for h in range(c["num_attention_heads"]):
            own = q[:, h * (nope + turned):(h + 1) * (nope + turned)]
            own = np.concatenate([own[:, :nope], rope.turn(own[:, nope:], True)], 1)
            both = expanded[:, h * (nope + value):(h + 1) * (nope + value)]
            mixed.append(attend(own, np.concatenate([both[:, :nope], k_rope], 1), both[:, nope:], scale))
        return self.linear(np.concatenate(mixed, 1), at + "o_proj")

    def choose(self, values, count):
        """The best, and how close it was."""
        order = best(values, len(values))
        if count < len(values) and np.isfinite(values[order[count]]):
            self.margin = min(self.margin, values[order[count - 1]] - values[order[count]])
        return order[:count]

    def within_groups(self, values, kept):
        """The values, -inf outside of the best groups."""
        groups = values.reshape(self.c["n_group"], -1)
        worth = np.sort(groups, 1)[:, -2:].sum(1) if self.family == "deepseek_v3" else groups.max(1)
        masked = np.full_like(groups, -np.inf)
        for g in self.choose(worth, kept):
            masked[g] = groups[g]
        return masked.ravel()

    def sparse_mixer(self, z):
        eps, chosen, weights, left = self.c["router_jitter_noise"], [], [], z.copy()
        for _ in range(2):
            top = self.choose(left, 1)[0]
            distance = (left[top] - left) / np.maximum(np.abs(z), left[top])
            self.margin = min(self.margin, np.abs(distance[np.isfinite(distance)] - 2 * eps).min())
            chosen.append(top)
            weights.append(softmax(np.where(distance > 2 * eps, -np.inf, left))[top])
            left[top] = -np.inf
        return chosen, weights

    def route(self, layer, z):
        """Experts of one token and their weights, from its logits."""
        c = self.c
        count = c["num_experts_per_tok"]
        if self.family == "phimoe":
            return self.sparse_mixer(z)
        if self.family in ("gpt_oss", "granitemoe", "mixtral"):
            chosen = self.choose(z, count)
            return chosen, softmax(z[chosen])
        if self.family == "deepseek_v3":
            scores = sigmoid(z)
            biased = scores + self.w[f"model.layers.{layer}.mlp.gate.e_score_correction_bias"]
            chosen = self.choose(self.within_groups(biased, c["topk_group"]), count)
            weights = scores[chosen]
            return chosen, (weights / weights.sum() if c["norm_topk_prob"] else weights) * c["routed_scaling_factor"]
        scores = softmax(z)
        grouped = self.family == "deepseek_v2" and c["topk_method"] == "group_limited_greedy"
        chosen = self.choose(self.within_groups(scores, c["topk_group"]) if grouped else scores, count)
        weights = scores[chosen]
        if c.get("norm_topk_prob"):
            return chosen, weights / weights.sum()
        return chosen, weights * c.get("routed_scaling_factor", 1)

    def network(self, x, at, names):
        gate, up = self.linear(x, at + names[0]), self.linear(x, at + names[1])
        if self.family == "gpt_oss":
            limit = self.c["swiglu_limit"]
            gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
            return self.linear((up + 1) * gate * sigmoid(1.702 * gate), at + names[2])
        return self.linear(gate * sigmoid(gate) * up, at + names[2])

    def has_experts(self, layer):
        c = self.c
        if self.family in ("llama", "mistral", "qwen2", "qwen3"):
            return False
        if self.family.startswith("deepseek"):
            return layer >= c["first_k_dense_replace"]
        return layer not in c.get("mlp_only_layers", []) and (layer + 1) % c.get("decoder_sparse_step", 1) == 0

    def mixture(self, layer, x, trace):
        at = f"model.layers.{layer}."
        plain = ("gate_proj", "up_proj", "down_proj")
        if not self.has_experts(layer):
            return self.network(x, at + "mlp.", plain)
        old = self.family in ("mixtral", "phimoe", "granitemoe")
        at += "block_sparse_moe." if old else "mlp."
        names = ("w1", "w3", "w2") if self.family in ("mixtral", "phimoe") else plain
        z = self.linear(x, at + {"gpt_oss": "router", "granitemoe": "router.layer"}.get(self.family, "gate"))
        out, chosen, weights = np.zeros_like(x), [], []
        for t, logits in enumerate(z):
            experts, gains = self.route(layer, logits)
            chosen.append(list(experts))
            weights.append([float(g) for g in gains])
            for e, gain in zip(experts, gains):
                out[t] += gain * self.network(x[t:t + 1], f"{at}experts.{e}.", names)[0]
        trace[layer] = z, np.array(chosen), np.array(weights)
        if self.family == "qwen2_moe":
            shared = sigmoid(self.linear(x, at + "shared_expert_gate"))
            return out + shared * self.network(x, at + "shared_expert.", plain)
        if at + "shared_experts.up_proj.weight" in self.w:
            return out + self.network(x, at + "shared_experts.", plain)
        return out

    def forward(self, ids):
        """Logits (T,V), hidden states, and of layers with experts {layer: (logits, experts, weights)}."""
        c, trace = self.c, {}
        h = self.w["model.embed_tokens.weight"][ids] * c.get("embedding_multiplier", 1)
        hidden = [h]
        added = c.get("residual_multiplier", 1)
        attention = self.latent_attention if self.family.startswith("deepseek") else self.attention
        for layer in range(c["num_hidden_layers"]):
            at = f"model.layers.{layer}."
            h = h + added * attention(layer, self.norm(h, at + "input_layernorm"))
            h = h + added * self.mixture(layer, self.norm(h, at + "post_attention_layernorm"), trace)
            hidden.append(h)
        hidden[-1] = self.norm(h, "model.norm")
        head = "model.embed_tokens" if c["tie_word_embeddings"] else "lm_head"
        logits = hidden[-1] @ self.w[head + ".weight"].T + self.w.get("lm_head.bias", 0)
        return logits / c.get("logits_scaling", 1), hidden, trace
