"""The command line as users and their scripts see it. cli_test.py CHOIR [unittest's arguments]"""
import itertools
import json
import math
import signal
import subprocess
import unittest

import cli_models as models
from cli_case import CHOIR, TEXT, VERBS, CliTest, choir, small_disk


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
                 ("generate", self.model),
                 ("generate", self.model, "--ids", "1,x"),
                 ("generate", self.model, "--ids", "1", "--prompt", "a"),
                 ("generate", self.model, "--ids", "1", "-n", -1),
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
        self.refused("forward", self.model, "--ids", self.ids, "--out", there, "--force", code=2, says=str(there))
        self.refused("prune", self.model, "--keep", 4, "--ids", self.ids, "--out", self.text, "--force", code=2,
                     says=str(self.text))
        self.refused("train", "--config", self.dir / "train.json", "--out", self.dir / "new", "--resume", code=2)
        (there / "letter.partial.1").write_text("mine")
        self.refused("train", "--config", self.dir / "train.json", "--out", there, "--resume", code=2,
                     says="not the directory of a run")
        self.refused("train", "--config", self.dir / "train.json", "--out", "x" * 5000, code=2, says="cannot create")
        self.refused("train", "--config", self.dir / "train.json", "--out", "x" * 5000, "--resume", code=2,
                     says="no run to resume")

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

    def test_inspect_lists_experts_without_weights(self):
        config = self.config | {"choir": {"zero_experts": 1, "copy_experts": [0, 2], "constant_experts": [1, 0]}}
        tensors = dict(self.tensors)
        for layer in range(2):
            tensors[f"model.layers.{layer}.block_sparse_moe.gate.weight"] = models.tensor("F32", [8 + 2 + layer, 16],
                                                                                          [0.1] * 16 * (10 + layer))
        at = "model.layers.0.block_sparse_moe.constant.0."
        tensors[at + "v"] = models.tensor("F32", [16], [1] * 16)
        tensors[at + "mix.weight"] = models.tensor("F32", [2, 16], [0.1] * 32)
        models.write_model(self.dir / "idle", config, tensors)
        layers = self.json_of("inspect", self.dir / "idle")["layers"]
        kinds = ("experts", "zero_experts", "copy_experts", "constant_experts")
        self.assertEqual([[layer.get(kind) for kind in kinds] for layer in layers], [[8, 1, None, 1], [8, 1, 2, None]])
        self.assertIn(", 1 zero, 2 copy  linear", self.done("inspect", self.dir / "idle").stdout)

    def test_inspect_lists_novices_and_unequal_widths(self):
        widths = [8] + [12] * 7
        config = self.config | {"choir": {"novice_experts": [2, 0], "expert_widths": [widths, []]}}
        tensors = dict(self.tensors)
        moe = "model.layers.0.block_sparse_moe."
        tensors[moe + "gate.weight"] = models.tensor("F32", [10, 16], [0.1] * 160)
        for name, shape in ("w1", [8, 16]), ("w2", [16, 8]), ("w3", [8, 16]):
            tensors[f"{moe}experts.0.{name}.weight"] = models.tensor("F32", shape, [0.1] * 128)
        for j in range(2):
            tensors[f"{moe}novice.{j}.v"] = models.tensor("F32", [16], [1] * 16)
        models.write_model(self.dir / "ragged", config, tensors)
        layers = self.json_of("inspect", self.dir / "ragged")["layers"]
        self.assertEqual([layer.get("novice_experts") for layer in layers], [2, None])
        self.assertEqual([layer.get("expert_widths") for layer in layers], [widths, None])
        self.assertIn("12 at most, 11 on average, 2 novice  linear", self.done("inspect", self.dir / "ragged").stdout)

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
            out = self.dir / f"by{threads}"
            self.done("forward", self.model, "--ids", self.ids, "--out", out, "--threads", threads)
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
        draw = ("generate", self.model, "--prompt", "the red", "-n", 8, "--temperature", 2, "--seed")
        drawn = [self.json_of(*draw, seed) for seed in (1, 1, 2)]
        self.assertEqual(drawn[0]["ids"], drawn[1]["ids"])
        self.assertNotEqual(drawn[0]["ids"], drawn[2]["ids"])
        shown = self.done("generate", self.model, "--prompt", "the red", "-n", 8)
        self.assertTrue(shown.stdout.startswith("the red"))
        self.assertIn("tokens/s", shown.stderr)

    def test_eval(self):
        told = self.json_of("eval", self.model, "--text", self.text)
        self.assertAlmostEqual(math.log(told["perplexity"]), told["nll"] / told["tokens"], places=6)
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
                self.assertRegex(ended.stderr, rb"\Achoir: [^\n]*stdout[^\n]*\n\Z")


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
        told = self.json_of("prune", self.model, "--keep", 5, "--all-losses", "--ids", f"{self.ids}:batches",
                            "--out", out)
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

    def test_skip_under_a_budget(self):
        for method, word in (["tail", "skip(tail="], ["ser", "skip(ser="], ["ratio", "skip(0."]):
            out = self.dir / f"budget_{method}"
            told = self.json_of("skip", self.model, "--ids", f"{self.ids}:batches", "--budget", 0.7, "--method", method,
                                "--out", out)
            self.assertTrue(0.65 < told["kept_share"] <= 0.7)
            self.assertEqual(sum(layer["saved"] for layer in told["layers"]),
                             round((1 - told["kept_share"]) * sum(layer["evaluations"] for layer in told["layers"])))
            routers = [layer["router"] for layer in self.json_of("inspect", out)["layers"]]
            for layer, router in zip(told["layers"], routers):
                self.assertIn(word, router)
                self.assertIn("> " + layer["weights"], router)
                self.assertLessEqual(layer["error"], layer["own_error"] * 1.000001)
            errors = [point["error"] for point in told["frontier"]]
            self.assertEqual(errors, sorted(errors))
            self.assertEqual(models.read_safetensors(out / "model.safetensors"), self.tensors)
        self.every_verb_takes(self.dir / "budget_tail")
        self.assertIn("skip(tail=", self.done("inspect", self.dir / "budget_tail").stdout)
        own = self.json_of("skip", self.model, "--ids", f"{self.ids}:batches", "--budget", 0.7, "--own-gains", "--out",
                           self.dir / "own")
        self.assertEqual({layer["weights"] for layer in own["layers"]}, {"chosen"})

    def test_gains_after_a_skip_are_chosen_on_held_out_text(self):
        held_out = self.dir / "gains.txt"
        held_out.write_text(TEXT[::-1])
        for name, call in ("ids", ["--ids", f"{self.ids}:batches", "--hold-out", 0.3]), (
                "text", ["--calibrate", self.text, "--length", 32, "--held-out", held_out, "--context", 32]):
            out = self.dir / f"gains_{name}"
            told = self.json_of("skip", self.model, "--budget", 0.7, "--out", out, *call)
            gains = told["gains"]
            self.assertEqual([(g["divisors"], g["amends"]) for g in gains],
                             list(itertools.product(["least error", "own", "kept"],
                                                    ["none", "factors", "moments", "linear"])))
            best = min(gains, key=lambda g: g["kl_mean"])
            self.assertEqual([g for g in gains if g["chosen"]], [best])
            for gain in gains:
                self.assertTrue(0.6 < gain["kept_share"] <= 0.7, gain)
            for layer in self.json_of("inspect", out)["layers"]:
                self.assertEqual("factors" in layer["router"], best["amends"] == "factors")
                self.assertEqual("channels=16" in layer["router"], best["amends"] in ("moments", "linear"))
        self.every_verb_takes(out)
        measured = self.json_of("eval", self.model, "--against", out, "--text", held_out, "--context", 32)
        self.assertAlmostEqual(measured["kl_mean"], best["kl_mean"], places=6)
        self.assertIn("chosen", self.done("skip", self.model, "--budget", 0.7, "--out", out, "--force", *call).stdout)

    def test_wrong_skippings_end_with_2(self):
        start = ("skip", self.model, "--ids", self.ids, "--out", self.dir / "new")
        for more in (["--budget", 0.4], ["--budget", 1.5], ["--budget", 0], ["--method", "magic"], ["--method", "tail"],
                     ["--method", "median", "--budget", 0.7], ["--own-gains"], ["--hold-out", 0.1],
                     ["--budget", 0.7, "--hold-out", 1], ["--budget", 0.7, "--own-gains", "--hold-out", 0.1],
                     ["--held-out", self.text]):
            with self.subTest(more):
                self.refused(*start, *more, code=2)

    def test_generate_skips_by_request(self):
        start = ("generate", self.model, "--ids", "1,2,3,4,5,6,7,8", "-n", 6)
        full = self.json_of(*start)
        self.assertEqual(full["skipped_share"], 0)
        self.assertEqual([layer["experts_run"] for layer in full["layers"]], [26, 26])
        self.assertEqual(self.json_of(*start, "--skip", "none")["ids"], full["ids"])
        self.assertEqual(self.json_of(*start, "--skip", "0")["ids"], full["ids"])
        for policy, least, most in (["count=1", 0.5, 0.5], ["1e9", 0.5, 0.5], ["tail=1", 0.5, 0.5], ["ser=0.5", 0, 0.5],
                                    ["0.5", 0, 0.5], ["tail=0.3", 0, 0.5], ["ser=0.9,least=2", 0, 0]):
            with self.subTest(policy):
                told = self.json_of(*start, "--skip", policy)
                self.assertTrue(least <= told["skipped_share"] <= most, told)
                skipped = sum(layer["experts_skipped"] for layer in told["layers"])
                self.assertAlmostEqual(told["skipped_share"], skipped / 52)
                for layer in told["layers"]:
                    self.assertEqual(layer["experts_run"] + layer["experts_skipped"], 26)
        self.assertIn("skipped 50.0 % of the experts; by layer 50.0 50.0",
                      self.done(*start, "--skip", "count=1").stderr)
        for wrong in ("tail=2", "magic", "0.5) > all", "ser=0.1,count=2", "count=0"):
            with self.subTest(wrong):
                self.refused(*start, "--skip", wrong, code=2, says="--skip")

    def test_eval_skips_by_request(self):
        questions = self.dir / "skipped.jsonl"
        questions.write_text(json.dumps({"context": "the old", "choices": [" bell rang", " gate"], "gold": 0}) + "\n")
        text, distance = ["--text", self.text], ["--against", self.model, "--text", self.text]
        for call in (text, distance, ["--choices", questions]):
            with self.subTest(call):
                full = self.json_of("eval", self.model, *call)
                self.assertEqual(full["skipped_share"], 0)
                self.assertEqual(self.json_of("eval", self.model, *call, "--skip", "none"), full)
                pairs = full["layers"][0]["experts_run"]
                half = self.json_of("eval", self.model, *call, "--skip", "count=1")
                self.assertEqual([[layer["experts_run"], layer["experts_skipped"]] for layer in half["layers"]],
                                 [[pairs // 2, pairs // 2]] * 2)
                some = self.json_of("eval", self.model, *call, "--skip", "tail=0.4")
                self.assertTrue(0 < some["skipped_share"] < 0.5, some)
                self.refused("eval", self.model, *call, "--skip", "tail=2", code=2, says="--skip")
        first, half, some = (self.json_of("eval", self.model, *text, "--skip", word)["perplexity"]
                             for word in ("none", "count=1", "tail=0.4"))
        self.assertEqual(len({first, half, some}), 3)
        told = self.json_of("eval", self.model, *distance, "--skip", "count=1")
        self.assertAlmostEqual(told["perplexity"] / half, 1, places=6)
        self.assertAlmostEqual(told["perplexity_other"] / first, 1, places=6)
        self.assertGreater(told["kl_mean"], self.json_of("eval", self.model, *distance, "--skip", "tail=0.4")["kl_mean"])
        self.assertIn("skipped 50.0 % of the experts; by layer 50.0 50.0",
                      self.done("eval", self.model, *text, "--skip", "count=1").stderr)
        routed = self.json_of("eval", self.model, *text, "--skip", "count=1", "--router",
                              "linear > top_k(4) > all > chosen")
        self.assertEqual(routed["skipped_share"], 0.75)

    def test_force_replaces_a_directory_whole(self):
        out = self.dir / "replaced"
        out.mkdir()
        (out / "old_shard.safetensors").write_text("stale")
        prune = ("prune", self.model, "--keep", 4, "--ids", self.ids, "--force", "--out")
        self.refused(*prune, out, code=2, says="holds no model")
        self.refused(*prune, self.model.parent, code=2, says=str(self.model.parent))
        (out / "config.json").write_text("{}")
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


class Training(CliTest):
    def start(self, name, **training):
        config = self.dir / f"{name}.json"
        self.run_config(config, **training)
        return ["train", "--config", config, "--out", self.dir / name]

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
        call = self.start("long", steps=300, checkpoint_every=50)
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
        room = len(checkpoint) - 1
        self.refused_after_notes(3, "checkpoint", *call, "--resume", preexec_fn=lambda: small_disk(room))
        self.assertEqual((run / "checkpoint.safetensors").read_bytes(), checkpoint)
        self.assertEqual(list(run.glob("*partial*")), [])
        self.done(*call, "--resume")
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual(steps, list(range(1, 301)))
        self.json_of("inspect", run)

    def test_killed_at_any_moment(self):
        """At most the steps since the last checkpoint are lost, and the end is that of an undisturbed run, bit for
        bit: with a router that keeps numbers of its own, evaluations and micro-batches."""
        every, steps = 4, 40
        for name in ("undisturbed", "killed"):
            call = self.start(name, steps=steps, checkpoint_every=every, accumulate=2)
            config = json.loads((self.dir / f"{name}.json").read_text())
            config |= {"router": "etr", "nodes": 2, "evaluation": {"every": 10, "tokens": 64}, "moments": "bfloat16"}
            (self.dir / f"{name}.json").write_text(json.dumps(config))
        self.done("train", "--config", self.dir / "undisturbed.json", "--out", self.dir / "undisturbed")
        for moment in (2, 5, 12):  # lines to wait for: kills before the first checkpoint and behind later ones
            process = subprocess.Popen([CHOIR, *map(str, call), "--json"], stdout=subprocess.PIPE,
                                       stderr=subprocess.DEVNULL)
            first = json.loads(process.stdout.readline())["step"]
            self.assertEqual(first % every, 1)
            for _ in range(moment):
                last = json.loads(process.stdout.readline() or b'{"step": 0}')["step"]
            process.kill()
            process.communicate()
            if "--resume" not in call:
                call.append("--resume")
        first = json.loads(self.done(*call, "--json").stdout.splitlines()[0])["step"]
        self.assertGreater(first + every, last)
        for file in ("model.safetensors", "config.json", "checkpoint.safetensors", "tokenizer.json"):
            with self.subTest(file):
                whole = (self.dir / "undisturbed" / file).read_bytes()
                self.assertEqual((self.dir / "killed" / file).read_bytes(), whole)
        for file, key in (("metrics.jsonl", "loss"), ("evaluations.jsonl", "loss_training_rule")):
            lines = [[(line["step"], line[key]) for line in map(json.loads, path.read_text().splitlines())]
                     for path in (self.dir / "undisturbed" / file, self.dir / "killed" / file)]
            self.assertEqual(*lines)

    def test_fine_tuning(self):
        call = self.start("tune", steps=3, batch_size=4)
        config = json.loads((self.dir / "tune.json").read_text())
        config |= {"task": "sft", "from": "trained", "freeze": ["*embed_tokens*"],
                   "tokenizer": {"path": "trained/tokenizer.json"},
                   "data": [{"name": "all", "files": ["tune.jsonl"]}]}
        (self.dir / "tune.json").write_text(json.dumps(config))
        lines = [json.dumps({"prompt": f"{i}?", "answer": "yes"}) for i in range(9)]
        (self.dir / "tune.jsonl").write_text("\n".join(lines))
        self.assertIn("warm start", self.done(*call).stderr)
        (self.dir / "tune.jsonl").write_text("\n".join([*lines, json.dumps({"prompt": "", "answer": "long " * 99})]))
        call[-1] = self.dir / "tune2"
        self.refused_after_notes(3, "tune.jsonl:10", *call)

    def test_bad_configs_leave_no_directory(self):
        for training, says in (({"steps": 0}, "steps"), ({"learning_rate": "fast"}, "learning_rate"),
                               ({"sequence_length": 10**6}, "sequence_length"), ({"sequence_length": 65}, "sequence_length"),
                               ({"sequence_length": 10**7}, "batch_size"), ({"accumulate": 10**5}, "accumulate"),
                               ({"setps": 5}, "setps")):
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
