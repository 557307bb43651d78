"""choir bench, and --trace of the verbs that have one. cli_bench_test.py CHOIR [unittest's arguments]"""
import json
import math
import unittest

import cli_models as models
from cli_case import CliTest, small_disk

SHORT = ("--prefill", 24, "--decode", 6, "--repeats", 2)


class Bench(CliTest):
    def weight_bytes(self):
        """Of one token, by hand: all but the embedding, and 2 of 8 experts."""
        return sum(len(data) // 4 if ".experts." in name else len(data)
                   for name, (_, _, data) in self.tensors.items() if name != "model.embed_tokens.weight")

    def operations(self, positions, heads):
        """Two for each multiply-add of tokens at these positions, of which some have logits."""
        c = self.config
        d, layers = c["hidden_size"], c["num_hidden_layers"]
        kv = d // c["num_attention_heads"] * c["num_key_value_heads"]
        token = 2 * d * d + 2 * d * kv + 8 * d + 2 * 3 * d * c["intermediate_size"]
        seen = sum(p + 1 for p in positions)
        return 2 * (layers * (len(positions) * token + 2 * d * seen) + heads * d * c["vocab_size"])

    def test_json_is_what_the_contract_says(self):
        told = self.json_of("bench", self.model, *SHORT)
        for key in ("prefill_tokens_per_second", "decode_tokens_per_second", "share_of_bandwidth", "share_of_peak",
                    "gflops", "byte_gops", "read_gb_per_second"):
            self.assertGreater(told[key], 0, key)
        self.assertEqual(told["bytes_per_token"], self.weight_bytes())
        self.assertEqual(told["bytes_per_token"], self.json_of("inspect", self.model)["bytes_per_token"])
        self.assertEqual([told[key] for key in ("prefill", "decode", "repeats", "threads")], [24, 6, 2, 1])
        self.assertAlmostEqual(told["even_share"], 1 / 8)
        self.assertGreaterEqual(told["busiest_expert_share"], 1 / 8)
        self.assertLessEqual(told["busiest_expert_share"], 1 / 2)

    def test_operators_count_the_work_of_the_model(self):
        told = self.json_of("bench", self.model, *SHORT)
        prefill, decode = told["operators"]["prefill"], told["operators"]["decode"]
        self.assertEqual(sum(row["operations"] for row in prefill), self.operations(range(24), 1))
        self.assertAlmostEqual(sum(row["operations"] for row in decode), self.operations(range(24, 30), 6) / 6,
                               places=3)
        self.assertAlmostEqual(sum(row["weight_bytes"] for row in decode), self.weight_bytes(), places=3)
        for rows in prefill, decode:
            names = [row["operator"] for row in rows]
            self.assertEqual(names[-1], "outside operators")
            self.assertEqual(len(set(names)), len(names))
            for name in ("embedding", "norm", "qkv", "rope", "attention", "o", "residual", "router", "gate+up",
                         "activation", "down", "combine", "head"):
                self.assertIn(name, names)
            for row in rows:
                self.assertGreaterEqual(row["seconds"], 0, row)
                self.assertTrue(0 <= row["busy"] <= 1.0001, row)
        self.assertIn("sampler", [row["operator"] for row in decode])
        self.assertEqual({row["calls"] for row in decode if row["operator"] in ("qkv", "down", "router")}, {2})

    def test_of_one_round_the_rows_add_up(self):
        told = self.json_of("bench", self.model, "--prefill", 24, "--decode", 6, "--repeats", 1)
        for phase, rate, tokens in (("prefill", "prefill_tokens_per_second", 24),
                                    ("decode", "decode_tokens_per_second", 1)):
            rows = told["operators"][phase]
            self.assertTrue(math.isclose(sum(row["seconds"] for row in rows), tokens / told[rate], rel_tol=1e-6))
            self.assertTrue(math.isclose(sum(row["share"] for row in rows), 1, rel_tol=1e-6))

    def test_text_has_a_table_for_each_phase(self):
        lines = self.done("bench", self.model, *SHORT).stdout.splitlines()
        for start in ("1 thread: ", "prefill of 24 tokens: ", "routing: the busiest expert", "prefill  ", "decode  ",
                      "attention  ", "outside operators  ", "all  "):
            self.assertTrue(any(line.startswith(start) for line in lines), start)
        self.assertEqual(len({len(line) for line in lines[4:] if line}), 1)

    def test_the_seed_chooses_the_tokens(self):
        shares = {self.json_of("bench", self.model, *SHORT, "--seed", seed)["busiest_expert_share"]
                  for seed in (1, 1, 2, 3, 4)}
        self.assertGreater(len(shares), 1)
        self.assertLess(len(shares), 5)

    def test_wrong_calls(self):
        for wrong in (("--prefill", 0), ("--prefill", "many"), ("--decode", 0), ("--repeats", 0), ("--force",),
                      ("--prefill", 60, "--decode", 5), ("--prefill", 2**31 - 1), ("--trace", self.dir / "no" / "t"),
                      ("--trace", self.text), ("--trace", self.model, "--force")):
            with self.subTest(wrong):
                self.refused("bench", self.model, *wrong, code=2)
        self.refused("bench", self.dir / "nothing")


class Trace(CliTest):
    def events(self, path):
        """Checked against the Trace Event Format: complete events of a thread nest, and metadata name the threads."""
        held = json.loads(path.read_text())
        self.assertIn(held["displayTimeUnit"], ("ms", "ns"))
        names, tracks = {}, {}
        for event in held["traceEvents"]:
            if event["ph"] == "M":
                if event["name"] == "thread_name":
                    names[event["tid"]] = event["args"]["name"]
                continue
            self.assertEqual(event["ph"], "X")
            self.assertGreaterEqual(event["ts"], 0)
            self.assertGreaterEqual(event["dur"], 0)
            self.assertTrue(event["name"] and event["cat"])
            tracks.setdefault(event["tid"], []).append(event)
        self.assertLessEqual(set(tracks), set(names))
        for track in tracks.values():
            self.check_nesting(track)
        return names, tracks

    def check_nesting(self, track):
        nanoseconds = sorted((round(1000 * e["ts"]), -round(1000 * e["dur"])) for e in track)
        around = []
        for begin, negative in nanoseconds:
            while around and around[-1] <= begin:
                around.pop()
            if around:
                self.assertLessEqual(begin - negative, around[-1])
            around.append(begin - negative)

    def test_bench(self):
        path = self.dir / "bench.json"
        self.json_of("bench", self.model, *SHORT, "--threads", 2, "--trace", path)
        names, tracks = self.events(path)
        self.assertEqual(names, {0: "operators", 1: "thread 0", 2: "thread 1"})
        spans = [e["name"] for e in tracks[0]]
        self.assertEqual([spans.count(name) for name in ("prefill", "decode", "layer", "attention")], [1, 6, 14, 14])
        self.assertEqual({e["args"]["layer"] for e in tracks[0] if e["name"] == "layer"}, {0, 1})
        head = next(e for e in tracks[0] if e["name"] == "head")
        self.assertEqual(head["args"]["weight bytes"], 4 * 16 * self.config["vocab_size"])
        self.assertGreater(len(tracks[1]), 100)
        self.refused("bench", self.model, *SHORT, "--trace", path, code=2, says="exists")
        self.done("bench", self.model, *SHORT, "--trace", path, "--force")

    def test_the_table_adds_up_what_the_trace_holds(self):
        path = self.dir / "one_round.json"
        told = self.json_of("bench", self.model, "--prefill", 24, "--decode", 6, "--repeats", 1, "--trace", path)
        _, tracks = self.events(path)
        phases = {name: [(e["ts"], e["ts"] + e["dur"]) for e in tracks[0] if e["name"] == name]
                  for name in ("prefill", "decode")}
        for phase, times in phases.items():
            inside = [e for e in tracks[0] if any(begin <= e["ts"] < end for begin, end in times)]
            rows = {row["operator"]: row for row in told["operators"][phase]}
            for name in ("attention", "router", "gate+up", "down", "head"):  # with no operator inside them
                held = [e for e in inside if e["name"] == name]
                self.assertAlmostEqual(len(held), rows[name]["calls"] * len(times))
                seconds = sum(e["dur"] for e in held) / 1e6 / len(times)
                self.assertTrue(math.isclose(seconds, rows[name]["seconds"], rel_tol=0.01, abs_tol=1e-8 * len(held)))
                moved = sum(e["args"]["weight bytes"] + e["args"]["other bytes"] for e in held) / len(times)
                self.assertAlmostEqual(moved, rows[name]["bytes"], places=3)

    def test_generate_says_the_same_with_a_trace(self):
        path = self.dir / "generate.json"
        call = ("generate", self.model, "--ids", "1,2,3", "-n", 5, "--ignore-end")
        traced, plain = self.json_of(*call, "--trace", path), self.json_of(*call)
        self.assertEqual(traced["ids"], plain["ids"])
        _, tracks = self.events(path)
        spans = [e["name"] for e in tracks[0]]
        self.assertEqual([spans.count(name) for name in ("prefill", "decode", "sampler")], [1, 5, 5])

    def test_train_is_the_same_with_a_trace_and_prints_its_table(self):
        path, out = self.dir / "train_trace.json", self.dir / "traced_run"
        told = self.done("train", "--config", self.dir / "train.json", "--out", out, "--trace", path)
        self.assertEqual((out / "model.safetensors").read_bytes(),
                         (self.dir / "trained" / "model.safetensors").read_bytes())
        lines = told.stderr.splitlines()
        for start in ("step  ", "forward/attention  ", "backward/attention  ", "head and loss/loss  ", "AdamW  ", "mean of 1"):
            self.assertTrue(any(line.startswith(start) for line in lines), start)
        _, tracks = self.events(path)
        spans = [e["name"] for e in tracks[0]]
        self.assertEqual([spans.count(name) for name in ("step", "forward", "backward", "AdamW", "layer")],
                         [2, 2, 2, 2, 8])

    def test_refusals(self):
        for call in (("generate", self.model, "--ids", "1"), ("train", "--config", self.dir / "train.json", "--out",
                                                              self.dir / "new")):
            with self.subTest(call[0]):
                self.refused(*call, "--trace", self.text, code=2, says="text.txt")
                self.refused(*call, "--trace", self.dir / "no" / "trace.json", code=2)
                self.refused(*call, "--force", code=2)

    def test_a_full_disk(self):
        path = self.dir / "full.json"
        self.refused("bench", self.model, *SHORT, "--trace", path, preexec_fn=small_disk)
        self.assertFalse(path.exists())


if __name__ == "__main__":
    unittest.main()
