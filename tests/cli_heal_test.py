"""Prune a model, heal it with the full one as teacher, measure it. cli_heal_test.py CHOIR"""
import json
import signal
import subprocess
import unittest

import cli_models as models
from cli_case import CHOIR, CliTest


class Heal(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.full, cls.small = cls.dir / "full", cls.dir / "small"
        cls.run_config(cls.dir / "full.json", steps=200)
        config = json.loads((cls.dir / "full.json").read_text())
        config["model"]["num_local_experts"] = 8
        (cls.dir / "full.json").write_text(json.dumps(config))
        for call in (("train", "--config", cls.dir / "full.json", "--out", cls.full),
                     ("prune", cls.full, "--keep", "3,2", "--calibrate", cls.text, "--length", 32, "--out", cls.small)):
            cls().done(*call)

    def start(self, name, steps=60, **changes):
        """A run that heals `small`; keys with the value None are left out."""
        config = {"from": "small", "teacher": "full", "distill": {"weight": 1, "temperature": 2},
                  "data": [{"name": "all", "files": ["text.txt"]}],
                  "training": {"steps": steps, "batch_size": 2, "sequence_length": 16, "learning_rate": 0.003}} | changes
        path = self.dir / f"{name}.json"
        path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
        return ["train", "--config", path, "--out", self.dir / name]

    def distance(self, name):
        return self.json_of("eval", self.dir / name, "--against", self.full, "--text", self.text)

    def test_a_healed_model_is_nearer_to_the_full_one(self):
        told = self.done(*self.start("healed"), "--json")
        self.assertIn("nothing begins anew", told.stderr)
        steps = [json.loads(line) for line in told.stdout.splitlines()]
        self.assertEqual(len(steps), 60)
        self.assertLess(steps[-1]["distill_loss"], steps[0]["distill_loss"])
        before, after = self.distance("small"), self.distance("healed")
        self.assertLess(after["kl_mean"], 0.6 * before["kl_mean"])
        self.assertGreater(after["top1_agreement"], before["top1_agreement"])
        shapes = [[(layer["experts"], layer["kept_experts"]) for layer in self.json_of("inspect", model)["layers"]]
                  for model in (self.small, self.dir / "healed")]
        self.assertEqual(*shapes)
        self.assertEqual([experts for experts, _ in shapes[0]], [3, 2])
        self.done("doctor", self.dir / "healed")
        self.done("report", self.dir / "healed", "--out", self.dir / "healed.html")
        self.json_of("prune", self.dir / "healed", "--keep", 2, "--calibrate", self.text, "--length", 32, "--out",
                     self.dir / "again")

    def test_interrupted_and_resumed_it_ends_the_same(self):
        self.done(*self.start("whole", steps=300))
        call = self.start("parts", steps=300)
        process = subprocess.Popen([CHOIR, *map(str, call), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(json.loads(process.stdout.readline())["step"], 1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
        self.assertEqual(process.returncode, 4)
        self.done(*call, "--resume")
        for file in ("model.safetensors", "config.json", "checkpoint.safetensors"):
            with self.subTest(file):
                self.assertEqual((self.dir / "parts" / file).read_bytes(), (self.dir / "whole" / file).read_bytes())

    def test_gates_alone(self):
        around = ["model.embed_tokens.*", "*.self_attn.*", "*layernorm.*", "model.norm.*", "lm_head.*", "*.experts.*"]
        self.done(*self.start("gates", steps=3, freeze=around))
        before, after = (models.read_safetensors(self.dir / name / "model.safetensors") for name in ("small", "gates"))
        self.assertEqual(before.keys(), after.keys())
        for name, tensor in before.items():
            with self.subTest(name):
                self.assertEqual(after[name] == tensor, ".gate." not in name)

    def test_what_cannot_teach_is_refused_in_one_line(self):
        for changes, says in (({"teacher": "nowhere"}, "nowhere"), ({"teacher": None}, "distill without a teacher"),
                              ({"distill": {"weight": 2}}, "weight"), ({"distill": {"temperature": 0}}, "temperature"),
                              ({"distill": {"heat": 1}}, "heat"), ({"from": None}, "model"),
                              ({"from": "nowhere"}, "nowhere"),
                              ({"tokenizer": {"vocab_size": 280}}, "vocabulary has 290 tokens, that of the run 280")):
            with self.subTest(changes):
                self.refused(*self.start("never", **changes), says=says)


if __name__ == "__main__":
    unittest.main()
