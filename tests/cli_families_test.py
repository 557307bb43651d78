"""Models of every family at the command line: tests/golden through inspect, forward, generate, eval, prune and skip.
cli_families_test.py CHOIR [unittest's arguments]"""
import json
import pathlib
import unittest

import cli_models as models
from cli_case import CliTest, choir

GOLDEN = pathlib.Path(__file__).parent / "golden"
CASES = sorted(path.name for path in GOLDEN.iterdir())
DENSE = {"llama", "mistral", "qwen2", "qwen3"}
MIXED = {"qwen2_moe": [1], "deepseek_v2": [1], "deepseek_v3": [1]}  # the layers with experts, where not all have some


def layers_with_experts(name):
    return [] if name in DENSE else MIXED.get(name, [0, 1])


class Families(CliTest):
    def test_inspect_shows_every_layer(self):
        for name in CASES:
            with self.subTest(name):
                told = self.json_of("inspect", GOLDEN / name)
                self.assertEqual(told["family"], json.loads((GOLDEN / name / "config.json").read_text())["model_type"])
                self.assertEqual([l for l, layer in enumerate(told["layers"]) if layer["experts"] > 0],
                                 layers_with_experts(name))
                self.assertEqual(told["defaults_used"], [])
                self.assertGreaterEqual(told["parameters"], told["active_parameters"])
                self.assertIn("layer   1", choir("inspect", GOLDEN / name).stdout)

    def test_forward_gives_the_numbers_and_the_trace(self):
        for name in CASES:
            with self.subTest(name):
                out = self.dir / f"{name}.safetensors"
                self.json_of("forward", GOLDEN / name, "--ids", f"{GOLDEN / name / 'reference.safetensors'}:A.input_ids",
                             "--out", out, "--trace")
                told = models.read_safetensors(out)
                want = models.read_safetensors(GOLDEN / name / "reference.safetensors")
                pairs = [("logits", "A.logits")]
                pairs += [(f"router_logits.{l}", f"A.router_logits.{l}") for l in layers_with_experts(name)]
                for ours, theirs in pairs:
                    self.assertEqual(told[ours][1], want[theirs][1])
                    for a, b in zip(models.numbers(told[ours]), models.numbers(want[theirs])):
                        self.assertAlmostEqual(a, b, delta=2e-4)
                self.assertEqual(len(told), 1 + 3 * len(layers_with_experts(name)))

    def test_generate_is_greedy(self):
        for name in CASES:
            with self.subTest(name):
                want = models.read_safetensors(GOLDEN / name / "reference.safetensors")
                prompt, tokens = (models.numbers(want[key]) for key in ("G.prompt", "G.tokens"))
                told = self.json_of("generate", GOLDEN / name, "--ids", ",".join(map(str, prompt)), "-n", len(tokens),
                                    "--temperature", 0, "--exact")
                self.assertEqual(told["ids"], tokens)

    def test_prune_keeps_dense_layers_and_writes_a_model(self):
        for name, keep in {"qwen2_moe": 4, "olmoe": 4, "deepseek_v2": 8, "deepseek_v3": 8, "gpt_oss": 3,
                           "granitemoe": 3}.items():
            with self.subTest(name):
                ids = f"{GOLDEN / name / 'reference.safetensors'}:A.input_ids"
                told = self.json_of("prune", GOLDEN / name, "--out", self.dir / f"{name}_pruned", "--keep", keep,
                                    "--ids", ids)
                kept = [keep if l in layers_with_experts(name) else 0 for l in range(len(told["layers"]))]
                self.assertEqual([len(layer["keep"]) for layer in told["layers"]], kept)
                again = self.json_of("inspect", self.dir / f"{name}_pruned")
                self.assertEqual([layer["experts"] for layer in again["layers"]], kept)

    def test_a_plan_and_a_capture_pass_dense_layers_by(self):
        model, ids = GOLDEN / "qwen2_moe", f"{GOLDEN / 'qwen2_moe' / 'reference.safetensors'}:A.input_ids"
        told = self.json_of("prune", model, "--out", self.dir / "by_capture", "--keep", 4, "--ids", ids, "--capture",
                            self.dir / "capture", "--save-plan", self.dir / "plan.json")
        self.assertEqual(sorted(p.name for p in (self.dir / "capture").iterdir()),
                         ["capture.json", "layer-0001.safetensors"])
        self.json_of("prune", model, "--out", self.dir / "by_plan", "--plan", self.dir / "plan.json")
        for file in "model.safetensors", "config.json":
            self.assertEqual((self.dir / "by_plan" / file).read_bytes(), (self.dir / "by_capture" / file).read_bytes())
        budget = self.json_of("prune", model, "--out", self.dir / "by_budget", "--keep-total", 4, "--capture",
                              self.dir / "capture")
        self.assertEqual([layer["keep"] for layer in budget["layers"]], [layer["keep"] for layer in told["layers"]])

    def test_skip_passes_dense_layers_by(self):
        ids = f"{GOLDEN / 'qwen2_moe' / 'reference.safetensors'}:A.input_ids"
        told = self.json_of("skip", GOLDEN / "qwen2_moe", "--out", self.dir / "skipping", "--budget", 0.6, "--ids", ids)
        self.assertEqual([layer["layer"] for layer in told["layers"]], [1])
        self.assertIn("skip(", self.json_of("inspect", self.dir / "skipping")["layers"][1]["router"])

    def test_what_cannot_be_pruned_is_said(self):
        for name, reason in ("llama", "no layer has experts"), ("phimoe", "can be taken from"):
            with self.subTest(name):
                done = choir("prune", GOLDEN / name, "--out", self.dir / "none", "--keep", 4, "--ids",
                             f"{GOLDEN / name / 'reference.safetensors'}:A.input_ids")
                self.assertEqual(done.returncode, 3)
                self.assertIn(reason, done.stderr)


if __name__ == "__main__":
    unittest.main()
