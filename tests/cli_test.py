"""The command line as users and their scripts see it. cli_test.py CHOIR [unittest's arguments]"""
import itertools
import json
import math
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

import cli_models as models

CHOIR = sys.argv.pop(1)
VERBS = ["inspect", "forward", "generate", "eval", "prune", "skip", "train"]
TEXT = "".join(f"In year {n} the {a} {b} of the {c} was {n * 7 % 11}.\n"
               for n, (a, b, c) in enumerate(itertools.product(["old", "new", "red"], ["bell", "gate", "song", "wall"],
                                                               ["town", "river", "choir"])))


def choir(*arguments, **options):
    return subprocess.run([CHOIR, *map(str, arguments)], capture_output=True, encoding="utf-8", errors="replace",
                          stdin=subprocess.DEVNULL, timeout=120, **options)


def small_disk(most=4096):
    """For preexec_fn: no file of the child may grow beyond so many bytes, as if the disk were full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def nobody():
    """For preexec_fn: permissions do not hold root back."""
    if os.geteuid() == 0:
        os.setuid(65534)


def snapshot(directory):
    """Every path below it, with what tells a file that was touched."""
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns, p.lstat().st_ino) for p in directory.rglob("*")}


class CliTest(unittest.TestCase):
    """One directory for all tests of a class; each test writes under names of its own."""

    @classmethod
    def setUpClass(cls):
        cls.place = tempfile.TemporaryDirectory(prefix="choir_cli_")
        cls.dir = pathlib.Path(cls.place.name)
        cls.dir.chmod(0o755)
        cls.text = cls.dir / "text.txt"
        cls.text.write_text(TEXT)
        cls.run_config(cls.dir / "train.json")
        made = choir("train", "--config", cls.dir / "train.json", "--out", cls.dir / "trained", "--threads", 1)
        if made.returncode != 0:
            raise RuntimeError(made.stderr)
        cls.tokenizer = (cls.dir / "trained" / "tokenizer.json").read_bytes()
        vocab = json.loads((cls.dir / "trained" / "config.json").read_text())["vocab_size"]
        cls.config = models.mixtral_config(vocab)
        cls.tensors = models.random_tensors(cls.config)
        cls.model = cls.dir / "model"
        models.write_model(cls.model, cls.config, cls.tensors, cls.tokenizer)
        cls.ids = cls.dir / "ids.safetensors"
        cls.write_ids(cls.ids, [2, 2, 20])

    @classmethod
    def tearDownClass(cls):
        cls.place.cleanup()

    @classmethod
    def run_config(cls, path, **training):
        model = models.mixtral_config(0, num_local_experts=4)
        del model["vocab_size"]
        training = {"steps": 2, "batch_size": 2, "sequence_length": 16, "learning_rate": 0.01} | training
        path.write_text(json.dumps({"model": model, "tokenizer": {"vocab_size": 290}, "training": training,
                                    "data": [{"name": "all", "files": ["text.txt"]}]}))

    @classmethod
    def write_ids(cls, path, shape):
        """A file with the default name in two dimensions, and `batches` in the given shape."""
        values = [(7 * i * i + 3 * i) % cls.config["vocab_size"] for i in range(math.prod(shape))]
        models.write_safetensors(path, {"batches": models.tensor("I64", shape, values),
                                        "input_ids": models.tensor("I64", shape[-2:], values[:math.prod(shape[-2:])])})

    def done(self, *arguments, **options):
        result = choir(*arguments, **options)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    def json_of(self, *arguments):
        out = self.done(*arguments, "--json").stdout
        self.assertEqual(out.count("\n"), 1, out)
        return json.loads(out)

    def refused(self, *arguments, says=(), code=3, **options):
        """One line on stderr, the right status, and not a byte on the disk has changed."""
        before = snapshot(self.dir)
        result = choir(*arguments, **options)
        shown = f"{arguments}\n{result.stderr}"
        self.assertEqual(result.returncode, code, shown)
        self.assertEqual(result.stdout, "", shown)
        self.assertRegex(result.stderr, r"\Achoir: [^\n]+\n\Z", shown)
        for part in [says] if isinstance(says, str) else says:
            self.assertIn(part, result.stderr, shown)
        self.assertEqual(snapshot(self.dir), before, shown)

    def broken_model(self, **changes):
        """A copy of the model with some of config, tensors, weights (raw bytes) or tokenizer replaced."""
        directory = self.dir / "broken"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(self.model, directory)
        for name, file in {"config": "config.json", "weights": "model.safetensors", "tokenizer": "tokenizer.json",
                           "tensors": "model.safetensors"}.items():
            if name not in changes:
                continue
            value = changes[name]
            (directory / file).unlink()
            if name == "tensors":
                models.write_safetensors(directory / file, value)
            elif value is not None:
                (directory / file).write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        return directory


class Contract(CliTest):
    def test_every_verb_has_help_with_an_example(self):
        for verb in VERBS:
            help_text = self.done(verb, "--help").stdout
            for part in (f"choir {verb} ", "Example", "--threads", "--seed", "--json"):
                self.assertIn(part, help_text)
        for verb in VERBS:
            self.assertIn(verb, self.done("--help").stdout)

    def test_wrong_calls_end_with_2(self):
        calls = [(), ("sing",), ("inspect",), ("inspect", self.model, "--loud"), ("inspect", self.model, "second"),
                 ("forward", self.model, "--ids", self.ids), ("forward", self.model, "--out", self.dir / "new"),
                 ("inspect", self.model, "--threads", "many"), ("inspect", self.model, "--threads", -1),
                 ("generate", self.model, "--ids", "1,x"),
                 ("generate", self.model, "--ids", "1", "--prompt", "a"), ("generate", self.model, "--ids", "1", "-n", -1),
                 ("eval", self.model), ("eval", self.model, "--against", self.model),
                 ("eval", self.model, "--text", self.text, "--choices", self.text),
                 ("eval", self.model, "--text", self.text, "--context", 65),
                 ("skip", self.model, "--out", self.dir / "new"), ("train", "--out", self.dir / "new")]
        calls += [("generate", self.model, "--ids", "1", *wrong) for wrong in
                  [("--temperature", "nan"), ("--temperature", -1), ("--top-p", 0), ("--top-p", 2), ("--min-p", 2),
                   ("--top-k", -1)]]
        for call in calls:
            with self.subTest(call):
                self.refused(*call, code=2)

    def test_wrong_prunings_end_with_2(self):
        start = ("prune", self.model, "--out", self.dir / "new", "--ids", self.ids)
        for keep in ("1", "9", "0", "-2", "x", "", "4,1", "9,4", "4,4,4", "2.5"):
            with self.subTest(keep):
                self.refused(*start, "--keep", keep, code=2)
        for more in ([], ["--keep", 4, "--method", "magic"], ["--keep", 4, "--calibrate", self.text],
                     ["--keep", 4, "--length", 8]):
            with self.subTest(more):
                self.refused(*start, *more, code=2)
        self.refused("prune", self.model, "--out", self.dir / "new", "--keep", 4, code=2, says="--calibrate")

    def test_outputs_in_the_way_or_without_a_parent(self):
        there, nowhere = self.dir / "there", self.dir / "nowhere" / "new"
        there.mkdir()
        (there / "precious").write_text("mine")
        for verb in (["forward", self.model, "--ids", self.ids], ["prune", self.model, "--keep", 4, "--ids", self.ids],
                     ["skip", self.model, "--ids", self.ids], ["train", "--config", self.dir / "train.json"]):
            with self.subTest(verb[0]):
                self.refused(*verb, "--out", there, code=2, says=str(there))
                self.refused(*verb, "--out", nowhere, code=2, says="nowhere")
        self.refused("forward", self.model, "--ids", self.ids, "--out", there, "--force", says=str(there))
        self.refused("prune", self.model, "--keep", 4, "--ids", self.ids, "--out", self.text, "--force",
                     says=str(self.text))
        self.refused("train", "--config", self.dir / "train.json", "--out", self.dir / "new", "--resume", code=2)

    def test_inspect(self):
        told = self.json_of("inspect", self.model)
        count = sum(len(data) for _, _, data in self.tensors.values())
        self.assertEqual(told["family"], "mixtral")
        self.assertEqual(told["bytes"], count)
        self.assertEqual(told["parameters"], count // 4)
        self.assertLess(told["active_parameters"], told["parameters"])
        for layer in told["layers"]:
            self.assertEqual([layer["experts"], layer["top_k"], layer["expert_width"]], [8, 2, 12])
        self.assertIn("layer   1", self.done("inspect", self.model).stdout)

    def test_forward_and_its_trace(self):
        out = self.dir / "traced"
        self.json_of("forward", self.model, "--ids", self.ids, "--out", out, "--trace")
        held = models.read_safetensors(out)
        vocab = self.config["vocab_size"]
        shapes = {"logits": ("F32", [2, 20, vocab])}
        for layer in (0, 1):
            shapes |= {f"router_logits.{layer}": ("F32", [40, 8]), f"topk_idx.{layer}": ("I64", [40, 2]),
                       f"topk_weight.{layer}": ("F32", [40, 2])}
        self.assertEqual({name: (t[0], t[1]) for name, t in held.items()}, shapes)
        scores, chosen, weights = (models.numbers(held[f"{name}.1"]) for name in
                                   ("router_logits", "topk_idx", "topk_weight"))
        for row in range(40):
            z = scores[8 * row:8 * row + 8]
            best = sorted(range(8), key=lambda e: -z[e])[:2]
            self.assertEqual(chosen[2 * row:2 * row + 2], best)
            first = 1 / (1 + math.exp(z[best[1]] - z[best[0]]))
            self.assertAlmostEqual(weights[2 * row], first, places=5)
            self.assertAlmostEqual(weights[2 * row + 1], 1 - first, places=5)

    def test_forward_does_not_depend_on_threads(self):
        for threads in (1, 2):
            self.done("forward", self.model, "--ids", self.ids, "--out", self.dir / f"by{threads}", "--threads", threads)
        self.assertEqual((self.dir / "by1").read_bytes(), (self.dir / "by2").read_bytes())

    def test_forward_takes_a_named_tensor(self):
        self.done("forward", self.model, "--ids", self.ids, "--out", self.dir / "named1")
        self.done("forward", self.model, "--ids", f"{self.ids}:input_ids", "--out", self.dir / "named2")
        self.assertEqual((self.dir / "named1").read_bytes(), (self.dir / "named2").read_bytes())

    def test_generate(self):
        told = self.json_of("generate", self.model, "--ids", "1,2,3", "-n", 5, "--ignore-end")
        self.assertEqual(told["prompt_ids"], [1, 2, 3])
        self.assertEqual(len(told["ids"]), 5)
        self.assertIsInstance(told["text"], str)
        self.assertGreater(told["tokens_per_second"], 0)
        again = self.json_of("generate", self.model, "--ids", "1,2,3", "-n", 5, "--ignore-end", "--threads", 2)
        self.assertEqual(again["ids"], told["ids"])
        drawn = [self.json_of("generate", self.model, "--prompt", "the red", "-n", 8, "--temperature", 2, "--seed", seed)
                 for seed in (1, 1, 2)]
        self.assertEqual(drawn[0]["ids"], drawn[1]["ids"])
        self.assertNotEqual(drawn[0]["ids"], drawn[2]["ids"])
        shown = self.done("generate", self.model, "--prompt", "the red", "-n", 8)
        self.assertTrue(shown.stdout.startswith("the red"))
        self.assertIn("tokens/s", shown.stderr)

    def test_eval(self):
        told = self.json_of("eval", self.model, "--text", self.text)
        self.assertAlmostEqual(told["perplexity"], math.exp(told["nll"] / told["tokens"]), delta=1e-6 * told["perplexity"])
        self.assertAlmostEqual(told["bits_per_byte"], told["nll"] / math.log(2) / len(TEXT), places=6)
        questions = self.dir / "questions.jsonl"
        questions.write_text("".join(json.dumps({"context": "the old", "choices": [" bell", " gate"], "gold": g}) + "\n"
                                     for g in (0, 1)))
        told = self.json_of("eval", self.model, "--choices", questions)
        self.assertEqual([told["items"], told["acc"], told["acc_norm"]], [2, 0.5, 0.5])
        told = self.json_of("eval", self.model, "--against", self.model, "--text", self.text)
        self.assertEqual([told["kl_mean"], told["kl_p99"], told["top1_agreement"]], [0, 0, 1])
        self.assertEqual(told["perplexity"], told["perplexity_other"])

    def test_models_without_a_tokenizer_take_ids(self):
        bare = self.broken_model(tokenizer=None)
        self.assertEqual(self.json_of("generate", bare, "--ids", "1,2", "-n", 2)["text"], "")
        self.done("forward", bare, "--ids", self.ids, "--out", self.dir / "bare.out")
        self.done("prune", bare, "--ids", self.ids, "--keep", 4, "--out", self.dir / "bare.pruned")
        self.done("skip", bare, "--ids", self.ids, "--out", self.dir / "bare.skipping")

    def test_a_full_stdout_is_an_error(self):
        with open("/dev/full", "w") as full:
            for more in ([], ["--json"]):
                ended = subprocess.run([CHOIR, "inspect", self.model, *more], stdout=full, stderr=subprocess.PIPE)
                self.assertEqual(ended.returncode, 3)
                self.assertRegex(ended.stderr, rb"\Achoir: [^\n]+stdout[^\n]+\n\Z")


class Compression(CliTest):
    def every_verb_takes(self, model):
        name = model.name
        self.json_of("inspect", model)
        self.json_of("forward", model, "--ids", self.ids, "--trace", "--out", self.dir / f"{name}.logits")
        self.json_of("generate", model, "--prompt", "the", "-n", 4)
        self.json_of("eval", model, "--text", self.text)
        self.json_of("eval", model, "--against", self.model, "--text", self.text)
        self.json_of("prune", model, "--keep", 2, "--ids", self.ids, "--out", self.dir / f"{name}.pruned")
        self.json_of("skip", model, "--ids", self.ids, "--out", self.dir / f"{name}.skipping")

    def test_prune_tells_all_losses(self):
        out = self.dir / "pruned"
        told = self.json_of("prune", self.model, "--keep", 5, "--all-losses", "--ids", f"{self.ids}:batches", "--out", out)
        self.assertGreaterEqual(told["seconds"], 0)
        subsets = [list(c) for c in itertools.combinations(range(8), 3)]
        for number, layer in enumerate(told["layers"]):
            self.assertEqual([layer["layer"], layer["candidates"]], [number, len(subsets)])
            self.assertEqual([dropped for dropped, _ in layer["losses"]], subsets)
            dropped, least = min(layer["losses"], key=lambda entry: entry[1])
            self.assertEqual(layer["loss"], least)
            self.assertEqual(sorted(layer["keep"] + dropped), list(range(8)))
        written = models.read_safetensors(out / "model.safetensors")
        for number, layer in enumerate(told["layers"]):
            at = f"model.layers.{number}.block_sparse_moe."
            rows = [self.tensors[at + "gate.weight"][2][64 * e:64 * e + 64] for e in layer["keep"]]
            self.assertEqual(written[at + "gate.weight"], ("F32", [5, 16], b"".join(rows)))
            for new, old in enumerate(layer["keep"]):
                for w in ("w1", "w2", "w3"):
                    self.assertEqual(written[f"{at}experts.{new}.{w}.weight"],
                                     self.tensors[f"{at}experts.{old}.{w}.weight"])
        self.assertEqual((out / "tokenizer.json").read_bytes(), self.tokenizer)
        self.every_verb_takes(out)

    def test_layers_may_keep_different_numbers(self):
        out = self.dir / "uneven"
        self.done("prune", self.model, "--keep", "4,3", "--calibrate", self.text, "--length", 32, "--out", out)
        self.assertEqual(json.loads((out / "config.json").read_text())["choir"]["num_local_experts"], [4, 3])
        self.assertEqual([layer["experts"] for layer in self.json_of("inspect", out)["layers"]], [4, 3])
        self.every_verb_takes(out)

    def test_keeping_all_changes_nothing(self):
        out = self.dir / "complete"
        self.done("prune", self.model, "--keep", 8, "--ids", self.ids, "--out", out)
        self.assertEqual(models.read_safetensors(out / "model.safetensors"), self.tensors)
        for model in (self.model, out):
            self.done("forward", model, "--ids", self.ids, "--out", self.dir / f"{model.name}.same")
        self.assertEqual((self.dir / "model.same").read_bytes(), (self.dir / "complete.same").read_bytes())

    def test_methods(self):
        for method in (["frequency"], ["random"], ["exact", "--progressive"]):
            out = self.dir / f"by_{method[0]}"
            told = self.json_of("prune", self.model, "--keep", 4, "--ids", self.ids, "--out", out, "--method", *method)
            self.assertEqual([len(layer["keep"]) for layer in told["layers"]], [4, 4])

    def test_skip(self):
        out = self.dir / "skipping"
        told = self.json_of("skip", self.model, "--calibrate", self.text, "--length", 32, "--out", out)
        betas = json.loads((out / "config.json").read_text())["betas"]
        for number, layer in enumerate(told["layers"]):
            self.assertEqual(layer["layer"], number)
            self.assertAlmostEqual(betas[str(number)], layer["beta"], places=5)
            self.assertTrue(0.3 < layer["skipped_share"] < 0.7, layer)  # beta is the median
        self.assertEqual(models.read_safetensors(out / "model.safetensors"), self.tensors)
        self.every_verb_takes(out)
        traced = models.read_safetensors(self.dir / "skipping.logits")
        chosen, weights = models.numbers(traced["topk_idx.0"]), models.numbers(traced["topk_weight.0"])
        skipped = [e for e, w in zip(chosen, weights) if w == 0]
        self.assertTrue(0 < len(skipped) < 40 and set(skipped) == {-1})
        self.assertEqual(weights.count(1), len(skipped))

    def test_force_replaces_a_directory_whole(self):
        out = self.dir / "replaced"
        out.mkdir()
        (out / "old_shard.safetensors").write_text("stale")
        self.done("prune", self.model, "--keep", 4, "--ids", self.ids, "--out", out, "--force")
        self.assertEqual({p.name for p in out.iterdir()}, {"config.json", "model.safetensors", "tokenizer.json"})
        self.assertEqual([p.name for p in self.dir.glob("replaced*")], ["replaced"])

    def test_a_model_may_replace_itself(self):
        out = self.dir / "itself"
        models.write_model(out, self.config, self.tensors)
        self.done("prune", out, "--keep", 4, "--ids", self.ids, "--out", out, "--force")
        self.assertEqual([layer["experts"] for layer in self.json_of("inspect", out)["layers"]], [4, 4])

    def test_a_full_disk_leaves_the_previous_output(self):
        out, logits = self.dir / "kept", self.dir / "kept_logits"
        self.done("prune", self.model, "--keep", 4, "--ids", self.ids, "--out", out)
        self.done("forward", self.model, "--ids", self.ids, "--out", logits)
        start = ("prune", self.model, "--keep", 3, "--ids", self.ids, "--out")
        for call in [(*start, out, "--force"), (*start, self.dir / "new"),
                     ("skip", self.model, "--ids", self.ids, "--out", out, "--force"),
                     ("forward", self.model, "--ids", self.ids, "--out", logits, "--force"),
                     ("forward", self.model, "--ids", self.ids, "--out", self.dir / "new")]:
            with self.subTest(call):
                self.refused(*call, preexec_fn=small_disk, says="output")


class BadModels(CliTest):
    def no_verb_takes(self, model, says, verbs=("inspect", "forward", "generate", "prune")):
        calls = {"inspect": [], "forward": ["--ids", self.ids, "--out", self.dir / "new"],
                 "generate": ["--ids", "1,2,3", "-n", 3],
                 "prune": ["--ids", self.ids, "--keep", 4, "--out", self.dir / "new"],
                 "skip": ["--ids", self.ids, "--out", self.dir / "new"], "eval": ["--text", self.text]}
        for verb in verbs:
            with self.subTest(verb):
                self.refused(verb, model, *calls[verb], says=says)

    def test_damaged_weight_files(self):
        whole = models.safetensors_bytes(self.tensors)
        overlapping = models.header_of(self.tensors)
        first, second = list(overlapping.values())[:2]
        shift = first["data_offsets"][1] - 8
        second["data_offsets"] = [shift, shift + second["data_offsets"][1] - second["data_offsets"][0]]
        for name, weights in {"empty": b"", "cut in the header": whole[:100], "cut in the data": whole[:-10],
                              "longer": whole + b"more", "absurd header length": b"\xff" * 7 + b"\x7f" + whole[8:],
                              "no header": (5).to_bytes(8, "little") + b"hello", "text": TEXT.encode(),
                              "overlapping": models.safetensors_bytes(self.tensors, overlapping)}.items():
            with self.subTest(name):
                self.no_verb_takes(self.broken_model(weights=weights), "model.safetensors")
        self.no_verb_takes(self.broken_model(weights=None), "model.safetensors")
        model = self.broken_model(weights=None)
        (model / "model.safetensors").mkdir()
        self.no_verb_takes(model, "model.safetensors")

    def test_tensors_that_do_not_fit(self):
        gate = "model.layers.1.block_sparse_moe.gate.weight"
        dtype, shape, data = self.tensors[gate]
        missing = {name: t for name, t in self.tensors.items() if name != gate}
        for name, tensors in {"mis-shaped": self.tensors | {gate: (dtype, shape[::-1], data)},
                              "flat": self.tensors | {gate: (dtype, [len(data) // 4], data)}, "missing": missing,
                              "integers": self.tensors | {gate: ("I32", shape, data)},
                              "doubles": self.tensors | {gate: ("F64", shape, data * 2)}}.items():
            with self.subTest(name):
                self.no_verb_takes(self.broken_model(tensors=tensors), gate)
        extra = self.tensors | {"model.surprise": models.tensor("F32", [1], [1])}
        self.no_verb_takes(self.broken_model(tensors=extra), "model.surprise")

    def test_numbers_that_are_none(self):
        at = "model.layers.1."
        for name in ("model.embed_tokens.weight", at + "self_attn.q_proj.weight", at + "input_layernorm.weight",
                     at + "block_sparse_moe.gate.weight", "model.norm.weight", "lm_head.weight"):
            for value in (math.nan, math.inf):
                broken = self.broken_model(tensors=self.tensors | {name: models.filled(self.tensors[name], value)})
                with self.subTest(f"{name} {value}"):
                    self.no_verb_takes(broken, name, verbs=["forward"])
                    computed_last = name in ("model.norm.weight", "lm_head.weight")
                    self.no_verb_takes(broken, "finite" if computed_last else (), verbs=["generate", "eval"])
                    if not computed_last:
                        self.no_verb_takes(broken, name, verbs=["prune", "skip"])

    def test_configs_that_are_none(self):
        for config in (None, b"", b"{", b"[]", b"hello", b"\xff\xfe", b"{}" + b"x", b"[" * 100000,
                       b'{"hidden_size": 1, "hidden_size": 2}'):
            with self.subTest(config and config[:20]):
                self.no_verb_takes(self.broken_model(config=config), "config.json", verbs=["inspect", "prune"])
        model = self.broken_model(config=None)
        (model / "config.json").mkdir()
        self.no_verb_takes(model, "config.json")
        self.no_verb_takes(self.dir / "nowhere", "nowhere")
        self.no_verb_takes(self.text, str(self.text))

    def test_absurd_values_in_a_config(self):
        counts = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                  "num_key_value_heads", "num_local_experts", "num_experts_per_tok", "max_position_embeddings",
                  "vocab_size")
        cases = [(key, value) for key in counts for value in (0, -1, 10**10, 10**30, "2", 2.5, True, [2], math.nan)]
        cases += [(key, value) for key in ("rms_norm_eps", "rope_theta", "router_aux_loss_coef")
                  for value in (-1, "1", math.nan, math.inf, [])]
        cases += [("num_attention_heads", 3), ("num_key_value_heads", 3), ("num_experts_per_tok", 9),
                  ("model_type", "gpt5"), ("model_type", 1), ("hidden_act", "gelu"), ("tie_word_embeddings", "yes"),
                  ("betas", {"0": "x"}), ("betas", [1, 2]), ("choir", {"num_local_experts": [8]}),
                  ("choir", {"num_local_experts": [8, 0]}), ("choir", {"num_experts_per_tok": [2, 9]}),
                  ("choir", {"kept_experts": [[0], [1]]}), ("rope_scaling", {"type": "yarn", "factor": 4.0})]
        for key, value in cases:
            with self.subTest(f"{key} {value}"):
                self.no_verb_takes(self.broken_model(config=self.config | {key: value}), "config", verbs=["inspect"])
        for key in ("model_type", "hidden_size", "vocab_size", "num_hidden_layers", "intermediate_size"):
            without = {k: v for k, v in self.config.items() if k != key}
            self.no_verb_takes(self.broken_model(config=without), ["config.json", key])

    def test_configs_of_another_model(self):
        for key, value in {"hidden_size": 1024, "num_hidden_layers": 4096, "num_local_experts": 4096,
                           "vocab_size": 1 << 24, "intermediate_size": 262144}.items():
            with self.subTest(key):
                self.no_verb_takes(self.broken_model(config=self.config | {key: value}), "tensor")

    def test_tokenizers(self):
        questions = self.dir / "good.jsonl"
        questions.write_text('{"context": "the", "choices": [" old"], "gold": 0}\n')
        for tokenizer in (None, b"", b"{", b"[]", b"{}", self.tokenizer[:-50]):
            broken = self.broken_model(tokenizer=tokenizer)
            for call in (["generate", broken, "--prompt", "the"], ["eval", broken, "--text", self.text],
                         ["eval", broken, "--choices", questions],
                         ["prune", broken, "--keep", 4, "--calibrate", self.text, "--out", self.dir / "new"],
                         ["skip", broken, "--calibrate", self.text, "--out", self.dir / "new"]):
                with self.subTest(f"{tokenizer and tokenizer[:5]} {call[0]}"):
                    self.refused(*call, says="tokenizer.json")


class BadInputs(CliTest):
    def test_texts(self):
        (self.dir / "empty").write_bytes(b"")
        (self.dir / "nul").write_bytes(TEXT.encode() + b"\0" + TEXT.encode())
        (self.dir / "latin").write_bytes(TEXT.encode() + "müde".encode("latin-1") + TEXT.encode())
        (self.dir / "folder").mkdir(exist_ok=True)
        secret = self.dir / "secret"
        secret.write_text(TEXT)
        secret.chmod(0)
        for name in ("empty", "nul", "latin", "folder", "absent", "secret"):
            path = self.dir / name
            for call in (["prune", self.model, "--keep", 4, "--out", self.dir / "new", "--calibrate"],
                         ["skip", self.model, "--out", self.dir / "new", "--calibrate"],
                         ["eval", self.model, "--text"]):
                with self.subTest(f"{name} {call[0]}"):
                    self.refused(*call, path, says=str(path), preexec_fn=nobody if name == "secret" else None)

    def test_texts_too_short(self):
        short = self.dir / "short"
        short.write_text("A word.")
        for verb in (["prune", "--keep", 4], ["skip"]):
            start = [verb[0], self.model, *verb[1:], "--out", self.dir / "new", "--calibrate"]
            self.refused(*start, short, says="too few tokens")
            self.refused(*start, self.text, "--sequences", 1000000, says="too few tokens")

    def test_ids(self):
        vocab = self.config["vocab_size"]
        files = {"large": models.tensor("I64", [1, 2], [0, vocab]), "negative": models.tensor("I64", [1, 2], [0, -1]),
                 "huge": models.tensor("I64", [1, 2], [0, 1 << 40]), "float": models.tensor("F32", [1, 2], [0, 1]),
                 "none": models.tensor("I64", [0, 2], []), "scalar": models.tensor("I64", [], [1]),
                 "flat": models.tensor("I64", [2], [0, 1]), "deep": models.tensor("I64", [1, 1, 1, 2], [0, 1]),
                 "long": models.tensor("I64", [1, 65], range(65))}
        for name, tensor in files.items():
            models.write_safetensors(self.dir / name, {"input_ids": tensor})
        (self.dir / "torn").write_bytes(self.ids.read_bytes()[:-3])
        (self.dir / "folder").mkdir(exist_ok=True)
        for name in [*files, "torn", "folder", "absent", "ids.safetensors:absent", "ids.safetensors:"]:
            ids = self.dir / name
            for call in (["forward", self.model], ["prune", self.model, "--keep", 4], ["skip", self.model]):
                with self.subTest(f"{name} {call[0]}"):
                    says = {"large": str(vocab), "long": "64"}.get(name, name.split(":")[0])
                    self.refused(*call, "--ids", ids, "--out", self.dir / "new", says=says)
        self.refused("forward", self.model, "--ids", f"{self.ids}:batches", "--out", self.dir / "new", says="[B,T]")

    def test_prompts(self):
        for ids in (self.config["vocab_size"], -1):
            self.refused("generate", self.model, f"--ids={ids}", says=str(ids))
        self.refused("generate", self.model, "--ids=99999999999", code=2)
        self.refused("generate", self.model, "--prompt", TEXT, says="64")
        filled = self.json_of("generate", self.model, "--prompt", "a", "-n", 1000, "--ignore-end")
        self.assertLessEqual(len(filled["ids"]), 64)

    def test_choices(self):
        good = '{"context": "the", "choices": [" old", " new"], "gold": 0}\n'
        path = self.dir / "choices.jsonl"
        for bad in ("{", "[]", '{"context": "a", "choices": [" b"]}', '{"choices": [" b"], "gold": 0}',
                    '{"context": "a", "choices": [], "gold": 0}', '{"context": "a", "choices": [" b"], "gold": 1}',
                    '{"context": "a", "choices": [" b"], "gold": -1}', '{"context": "a", "choices": [1], "gold": 0}',
                    '{"context": 1, "choices": [" b"], "gold": 0}', '{"context": "a", "choices": " b", "gold": 0}'):
            with self.subTest(bad):
                path.write_text(good + bad + "\n" + good)
                self.refused("eval", self.model, "--choices", path, says=f"{path}:2")
        path.write_text("")
        self.refused("eval", self.model, "--choices", path, says=str(path))

    def test_models_of_different_vocabularies_are_not_compared(self):
        config = self.config | {"vocab_size": 20}
        other = self.dir / "other"
        models.write_model(other, config, models.random_tensors(config))
        self.refused("eval", self.model, "--against", other, "--text", self.text, says="vocab")


class Training(CliTest):
    def start(self, name, **training):
        config = self.dir / f"{name}.json"
        self.run_config(config, **training)
        return ["train", "--config", config, "--out", self.dir / name, "--threads", 1]

    def refused_after_notes(self, code, says, *arguments, **options):
        result = choir(*arguments, **options)
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertRegex(result.stderr, r"\A([^\n]+\n)*choir: [^\n]+\n\Z")
        self.assertIn(says, result.stderr.splitlines()[-1])

    def test_a_line_a_step_and_a_model_at_the_end(self):
        lines = self.done(*self.start("run", steps=4), "--json").stdout.splitlines()
        steps = [json.loads(line) for line in lines]
        self.assertEqual([s["step"] for s in steps], [1, 2, 3, 4])
        self.assertEqual([s["tokens"] for s in steps], [32, 64, 96, 128])
        self.assertTrue(all(s["loss"] > 0 and s["tokens_per_second"] > 0 for s in steps))
        self.assertEqual((self.dir / "run" / "metrics.jsonl").read_text().splitlines(), lines)
        self.assertEqual(len(self.json_of("inspect", self.dir / "run")["layers"]), 2)
        self.json_of("eval", self.dir / "run", "--text", self.text)

    def test_interrupted_and_resumed(self):
        call = self.start("long", steps=300)
        process = subprocess.Popen([CHOIR, *map(str, call), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(json.loads(process.stdout.readline())["step"], 1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 4, errors)
        self.assertTrue(errors.splitlines()[-1].startswith(b"choir: interrupted"), errors)
        run = self.dir / "long"
        self.assertFalse((run / "config.json").exists())
        self.refused(*call, code=2, says="--resume")
        checkpoint = (run / "checkpoint.safetensors").read_bytes()
        self.refused_after_notes(3, "checkpoint", *call, "--resume", preexec_fn=lambda: small_disk(100000))
        self.assertEqual((run / "checkpoint.safetensors").read_bytes(), checkpoint)
        self.assertEqual(list(run.glob("*partial*")), [])
        self.done(*call, "--resume")
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual(steps, list(range(1, 301)))
        self.json_of("inspect", run)

    def test_bad_configs_leave_no_directory(self):
        for training, says in (({"steps": 0}, "steps"), ({"learning_rate": "fast"}, "learning_rate"),
                               ({"sequence_length": 10**6}, "tokens"), ({"sequence_length": 65}, "sequence_length")):
            with self.subTest(training):
                call = self.start("never", **training)
                self.refused_after_notes(3, says, *call)
                self.assertFalse((self.dir / "never").exists())
        config = self.dir / "bad.json"
        for text in ("", "{", "[]", "{}"):
            config.write_text(text)
            self.refused("train", "--config", config, "--out", self.dir / "never", says="bad.json")
        self.refused("train", "--config", self.dir, "--out", self.dir / "never", says=str(self.dir))

    def test_missing_data_leaves_no_directory(self):
        call = self.start("never2")
        self.refused_after_notes(3, "text.txt", *call, "--data", self.model)
        self.assertFalse((self.dir / "never2").exists())


if __name__ == "__main__":
    unittest.main()
