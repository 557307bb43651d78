"""Times training steps of a mixture-of-experts language model in PyTorch, the peer of `choir train`.

train_step.py [--router mixtral|switch|etr] [--layers L] ... prints one line of JSON
train_step.py --check                                        compares the ETR router with numbers worked out by hand

Written as one would write it for a model of one's own: experts one by one over the tokens they got, no padding, no
kernels of its own. Needs torch 1.13 or newer. README.md beside it says how to run it fairly.
"""
import argparse
import ctypes
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

LOAD_WEIGHT = {"mixtral": 0.02, "switch": 0.01, "etr": 0.01}
TOP_K = {"mixtral": 2, "switch": 1, "etr": 1}
CAPACITY_FACTOR = 1100  # of switch and the upper clamp of etr, in thousandths: 1.1 * 50 is above 55 in double
TAU = 0.76  # share of an expert's affinity that etr's capacity keeps
CAPACITY_DECAY = 0.9


def most_tokens(tokens, top_k, experts):
    return -(-CAPACITY_FACTOR * top_k * tokens // (1000 * experts))


def load_loss(chosen, probabilities):
    """E sum f P: f counts what was proposed, before anything was dropped."""
    experts = probabilities.shape[1]
    f = torch.bincount(chosen.flatten(), minlength=experts) / chosen.numel()
    return experts * (f * probabilities.mean(0)).sum()


def first_come(chosen, experts, capacity):
    """For each expert the first tokens that chose it."""
    return [(chosen == e).nonzero().flatten()[:capacity] for e in range(experts)]


def best_fitting(chosen, affinity, capacity, tau):
    """For each expert, of the tokens that chose it, the ones of largest affinity in ascending order; and how many of
    them hold the share tau of their affinity."""
    kept, needed = [], []
    for e in range(affinity.shape[1]):
        tokens = (chosen == e).nonzero().flatten()
        values, order = affinity[tokens, e].sort(descending=True, stable=True)
        kept.append(tokens[order[:capacity]].sort().values)
        mass = values.clamp(min=0).cumsum(0)
        enough = len(mass) > 0 and mass[-1] > 0
        needed.append(int(torch.searchsorted(mass, tau * mass[-1])) + 1 if enough else 0)
    return kept, needed


class Mixtral(nn.Module):
    """The two best of a linear score, softmax over the two, nothing dropped."""

    def __init__(self, width, experts):
        super().__init__()
        self.experts, self.top_k = experts, min(TOP_K["mixtral"], experts)
        self.gate = nn.Linear(width, experts, bias=False)

    def forward(self, x):
        logits = self.gate(x).float()
        with torch.no_grad():
            chosen = logits.topk(self.top_k, dim=-1).indices
            places = [(chosen == e).nonzero(as_tuple=True) for e in range(self.experts)]
        gates = logits.gather(1, chosen).softmax(-1)
        plan = [(token, gates[token, slot]) for token, slot in places]
        return plan, load_loss(chosen, logits.softmax(-1))


class Switch(nn.Module):
    """The best of a linear score, softmax over all, each expert takes the first tokens up to its capacity."""

    top_k = 1

    def __init__(self, width, experts):
        super().__init__()
        self.experts = experts
        self.gate = nn.Linear(width, experts, bias=False)

    def forward(self, x):
        probabilities = self.gate(x).float().softmax(-1)
        with torch.no_grad():
            chosen = probabilities.argmax(-1)
            kept = first_come(chosen, self.experts, most_tokens(len(x), 1, self.experts))
        plan = [(token, probabilities[token, e]) for e, token in enumerate(kept)]
        return plan, load_loss(chosen, probabilities)


class Etr(nn.Module):
    """Cosine of token and block mean, the best expert; each expert keeps the tokens that fit it best, as many as held
    the share tau of the affinity in earlier steps; softmax over all, not normalised again."""

    top_k = 1

    def __init__(self, width, experts):
        super().__init__()
        self.experts, self.kappa = experts, math.sqrt(width)
        gate = torch.zeros(width, experts)
        for e in range(experts):
            begin, end = e * width // experts, (e + 1) * width // experts
            gate[begin:end, e] = 1 / math.sqrt(end - begin)
        self.register_buffer("gate", gate)
        self.average = None  # of the capacities of earlier steps

    def affinity(self, x):
        return F.normalize(x, dim=-1) @ self.gate

    def capacity(self, tokens):
        most = most_tokens(tokens, 1, self.experts)
        return most if self.average is None else min(most, math.ceil(self.average))

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            affinity = self.affinity(x.float())
        probabilities = (self.kappa * affinity).softmax(-1)
        with torch.no_grad():
            chosen = affinity.argmax(-1)
            kept, needed = best_fitting(chosen, affinity, self.capacity(len(x)), TAU)
            before = max(needed) if self.average is None else self.average
            self.average = CAPACITY_DECAY * before + (1 - CAPACITY_DECAY) * max(needed)
        plan = [(token, probabilities[token, e]) for e, token in enumerate(kept)]
        return plan, load_loss(chosen, probabilities)


ROUTERS = {"mixtral": Mixtral, "switch": Switch, "etr": Etr}


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Attention(nn.Module):
    def __init__(self, width, heads, length):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        half = width // heads // 2
        angle = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(half) / half)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())
        self.register_buffer("mask", torch.full((length, length), -math.inf).triu(1))

    def rotate(self, x):
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * self.cos - b * self.sin, b * self.cos + a * self.sin), dim=-1)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (p(x).view(batch, length, self.heads, -1).transpose(1, 2) for p in (self.query, self.key, self.value))
        q, k = self.rotate(q) / math.sqrt(width // self.heads), self.rotate(k)
        weights = (q @ k.transpose(-1, -2) + self.mask).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))


class Expert(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.w1, self.w3 = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.w2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Moe(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.router = ROUTERS[args.router](args.width, args.experts)
        self.experts = nn.ModuleList(Expert(args.width, args.expert_width) for _ in range(args.experts))
        self.counts = []  # tokens of each expert in the last step

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        plan, loss = self.router(rows)
        y = torch.zeros_like(rows)
        for expert, (token, gate) in zip(self.experts, plan):
            if len(token):
                y.index_add_(0, token, expert(rows.index_select(0, token)) * gate[:, None])
        self.counts = [len(token) for token, _ in plan]
        return y.view_as(x), loss


class Block(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.attention_norm, self.moe_norm = RmsNorm(args.width), RmsNorm(args.width)
        self.attention = Attention(args.width, args.heads, args.sequence)
        self.moe = Moe(args)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        y, loss = self.moe(self.moe_norm(x))
        return x + y, loss


class Model(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.load_weight = LOAD_WEIGHT[args.router]
        self.embedding = nn.Embedding(args.vocab, args.width)
        self.blocks = nn.ModuleList(Block(args) for _ in range(args.layers))
        self.norm = RmsNorm(args.width)
        self.head = nn.Linear(args.width, args.vocab, bias=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                onto_stream = name.endswith(("attention.out.weight", "w2.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * args.layers) if onto_stream else 0.02)

    def forward(self, ids, targets):
        """The cross-entropy and the weighted load loss."""
        x, balance = self.embedding(ids), 0.0
        for block in self.blocks:
            x, loss = block(x)
            balance = balance + loss
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten()), self.load_weight * balance

    def processed_share(self, tokens):
        """The proposed pairs of token and expert that were computed, mean of the layers."""
        return statistics.mean(sum(b.moe.counts) / (tokens * b.moe.router.top_k) for b in self.blocks)

    def worst_load(self):
        """Tokens of the busiest expert over the mean, in the worst layer."""
        return max(max(b.moe.counts) * len(b.moe.counts) / max(1, sum(b.moe.counts)) for b in self.blocks)


def optimizer_of(model):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-5, betas=(0.9, 0.95), eps=1e-8)


def blas_in_use():
    """The library that the loader chose, by folder and name, and where it is OpenBLAS the kernels that it chose."""
    with open("/proc/self/maps") as maps:
        paths = sorted({line.split()[-1] for line in maps if "blas" in line.split()[-1].rsplit("/", 1)[-1]})
    names = ["/".join(path.rsplit("/", 2)[-2:]) for path in paths]
    for path, name in zip(paths, names):
        try:
            core = ctypes.CDLL(path).openblas_get_corename
        except (OSError, AttributeError):
            continue
        core.restype = ctypes.c_char_p
        return f"{name} ({core().decode()})"
    return " ".join(names) or "unknown"


def train(args):
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    model = Model(args)
    optimizer = optimizer_of(model)
    seconds, losses, shares, loads = [], [], [], []
    tokens = args.batch * args.sequence
    for step in range(args.warmup + args.steps):
        start = time.perf_counter()
        ids = torch.randint(args.vocab, (args.batch, args.sequence + 1))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.dtype == "bfloat16"):
            cross_entropy, balance = model(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        (cross_entropy + balance).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(cross_entropy.item())
        if step >= args.warmup:
            seconds.append(time.perf_counter() - start)
            shares.append(model.processed_share(tokens))
            loads.append(model.worst_load())
    return {"tokens_per_second": tokens / statistics.median(seconds),
            "step_seconds": seconds, "loss_first": losses[0], "loss_last": losses[-1], "blas": blas_in_use(),
            "threads": torch.get_num_threads(), "torch": torch.__version__,
            "processed_share": statistics.mean(shares), "max_over_mean_load": statistics.mean(loads),
            "router": args.router, "dtype": args.dtype, "parameters": sum(p.numel() for p in model.parameters())}


def check():
    """A case worked out by hand: width 4, 2 experts, 6 tokens. Returns what differs."""
    x = torch.tensor([[1., 1, 0, 0], [2, 1, 2, 0], [4, 0, 0, 3], [1, 0, 2, 2], [2, 2, 1, 0], [0, 3, 4, 0]])
    affinity = torch.tensor([[1, 0], [0.707107, 0.471405], [0.565685, 0.424264], [0.235702, 0.942809],
                             [0.942809, 0.235702], [0.424264, 0.565685]])
    first = torch.tensor([0.880797, 0.615716, 0.570243, 0.195570, 0.804430, 0.429757])  # probabilities of expert 0
    router = Etr(4, 2)
    chosen = router.affinity(x).argmax(-1)
    router.average = 2.0
    plan, loss = router(x)
    p = (router.kappa * router.affinity(x)).softmax(-1)
    uneven = [column.nonzero().flatten().tolist() for column in Etr(10, 4).gate.T]

    def near(a, b):
        return torch.allclose(torch.as_tensor(a), torch.as_tensor(b), rtol=0, atol=2e-6)

    def tokens(kept):
        return [t.tolist() for t in kept]

    cases = {
        "affinity": near(router.affinity(x), affinity),
        "probabilities": near(p[:, 0], first) and near(p.sum(-1), torch.ones(6)) and
        near(p.mean(0), torch.tensor([0.582752, 0.417248])),
        "proposals": chosen.tolist() == [0, 0, 0, 1, 0, 1],
        "kept": tokens(t for t, _ in plan) == [[0, 4], [3, 5]],
        "gates": near(plan[0][1], torch.tensor([0.880797, 0.804430])) and
        near(plan[1][1], torch.tensor([0.804430, 0.570243])),
        "first come": tokens(first_come(chosen, 2, 2)) == [[0, 1], [3, 5]],
        "capacity": [best_fitting(chosen, affinity, 2, tau)[1] for tau in (0.70, 0.76, 0.90)] ==
        [[3, 2], [3, 2], [4, 2]],
        "average": abs(router.average - 2.1) < 1e-12 and router.capacity(6) == 3,
        "upper clamp": [most_tokens(n, 1, e) for n, e in ((6, 2), (1024, 8), (50, 1))] == [4, 141, 55],
        "load loss": near(loss, 1.055168),
        "uneven blocks": uneven == [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]],
    }
    return [name for name, good in cases.items() if not good]


def main():
    parser = argparse.ArgumentParser(description="Times training steps of a mixture-of-experts model in PyTorch.")
    for name, value in (("layers", 6), ("width", 256), ("heads", 4), ("experts", 8), ("expert-width", 1024),
                        ("sequence", 256), ("batch", 16), ("vocab", 8192), ("steps", 5), ("warmup", 2),
                        ("threads", torch.get_num_threads()), ("seed", 1)):
        parser.add_argument("--" + name, type=int, default=value, help=f"default {value}")
    parser.add_argument("--router", choices=sorted(ROUTERS), default="mixtral")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32",
                        help="bfloat16: products under autocast, parameters stay float32")
    parser.add_argument("--check", action="store_true", help="compare the ETR router with known numbers and stop")
    args = parser.parse_args()
    if args.check:
        wrong = check()
        print("differs: " + ", ".join(wrong) if wrong else "the ETR router is right")
        return 1 if wrong else 0
    if args.width % (2 * args.heads):
        parser.error("--width must be a multiple of twice --heads")
    if min(args.steps, args.threads) < 1 or args.warmup < 0:
        parser.error("--steps and --threads must be 1 or more, --warmup 0 or more")
    print(json.dumps(train(args)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
