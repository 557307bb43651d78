"""choir prune over records: methods, captures, budgets, plans, repairs. cli_prune_test.py CHOIR [unittest's arguments]"""
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import unittest

import cli_models as models
from cli_case import CHOIR, CliTest, small_disk

CRITERIA = ["random", "frequency", "mass", "ean", "reap", "man", "msan", "seer", "easy_ep"]


class PruneTest(CliTest):
    def prune(self, name, *more, model=None):
        """A pruning on two batches of ids, with the default or the given model."""
        return self.json_of("prune", model or self.model, "--out", self.dir / name, "--ids", f"{self.ids}:batches",
                            *more)

    def counts(self, told):
        return [len(layer["keep"]) for layer in told["layers"]]

    def capture(self, name, *more):
        self.json_of("prune", self.model, "--capture", self.dir / name, "--capture-only", "--ids",
                     f"{self.ids}:batches", *more)
        return self.dir / name

    def files(self, directory):
        return {path.name: path.read_bytes() for path in directory.iterdir()}

    def model_of(self, name, **changes):
        """Another random model, with changes of its config."""
        config = models.mixtral_config(self.config["vocab_size"], **changes)
        models.write_model(self.dir / name, config, models.random_tensors(config, seed=3), self.tokenizer)
        return self.dir / name


class Methods(PruneTest):
    def test_every_method_reports_the_loss_that_the_pair_table_has_for_its_set(self):
        table = self.prune("table", "--keep", 4, "--all-losses")
        losses = [{tuple(dropped): loss for dropped, loss in layer["losses"]} for layer in table["layers"]]
        for method in ["search", "nested", "genetic", "sampled", *CRITERIA]:
            with self.subTest(method):
                told = self.prune(f"by_{method}", "--keep", 4, "--method", method, "--samples", 20)
                for number, layer in enumerate(told["layers"]):
                    self.assertEqual(len(layer["keep"]), 4)
                    dropped = tuple(e for e in range(8) if e not in layer["keep"])
                    self.assertAlmostEqual(layer["loss"] / losses[number][dropped], 1, places=5)
                    self.assertGreaterEqual(layer["loss"] * 1.00001, table["layers"][number]["loss"])
                    self.assertEqual(layer["coverage"], table["layers"][number]["coverage"])
                self.assertEqual([told["method"], told["tokens"]], [method, 80])

    def test_the_output_holds_what_the_report_says(self):
        told = self.prune("said", "--keep", "5,3", "--method", "reap")
        written = models.read_safetensors(self.dir / "said" / "model.safetensors")
        for number, layer in enumerate(told["layers"]):
            at = f"model.layers.{number}.block_sparse_moe."
            rows = [self.tensors[at + "gate.weight"][2][64 * e:64 * e + 64] for e in layer["keep"]]
            self.assertEqual(written[at + "gate.weight"][2], b"".join(rows))
            for new, old in enumerate(layer["keep"]):
                self.assertEqual(written[f"{at}experts.{new}.w2.weight"], self.tensors[f"{at}experts.{old}.w2.weight"])

    def test_defaults_of_other_layers(self):
        """More than two experts a token are enumerated on the record, more than 16 experts are searched."""
        many = self.model_of("many", num_local_experts=20)
        told = self.prune("of_many", "--keep", 15, model=many)
        self.assertEqual([told["method"], *self.counts(told)], ["search", 15, 15])
        five = self.model_of("five", num_local_experts=16, num_experts_per_tok=5)
        told = self.prune("of_five", "--keep", 14, model=five)
        self.assertEqual([told["method"], told["layers"][0]["candidates"]], ["exact", math.comb(16, 2)])
        searched = self.prune("searched", "--keep", 14, "--method", "search", model=five)
        for best, found in zip(told["layers"], searched["layers"]):
            self.assertGreaterEqual(found["objective_loss"] * (1 + 1e-9), best["objective_loss"])

    def test_other_routers_are_pruned_on_the_record(self):
        routers = ["linear(sigmoid) > top_k(2) > all > sigmoid_norm(2.5)", "linear > top_k(2) > all > softmax",
                   "linear(sigmoid) > groups(4, 2, 2) > all > sigmoid_norm(1)"]
        for number, router in enumerate(routers):
            model = self.model_of(f"router{number}", choir={"router": router})
            with self.subTest(router):
                self.assertEqual(self.counts(self.prune(f"routed{number}", "--keep", 4, model=model)), [4, 4])
                self.json_of("forward", self.dir / f"routed{number}", "--ids", self.ids, "--out",
                             self.dir / f"routed{number}.out")
        self.refused("prune", model, "--ids", self.ids, "--keep", 6, "--out", self.dir / "new", code=2,
                     says=["groups", "layer 0"])

    def test_objectives_weigh_tokens_differently(self):
        """On one batch the published objective is the loss that is reported: nobody's set has less."""
        told = {}
        for objective in ("published", "output", "stream", "gradient"):
            told[objective] = self.json_of("prune", self.model, "--ids", self.ids, "--keep", 4, "--method", "exact",
                                           "--objective", objective, "--capture", self.dir / "weighed", "--out",
                                           self.dir / f"to_{objective}")
        self.assertEqual(len({t["objective"] for t in told.values()}), 4)
        for number in (0, 1):
            layers = {name: t["layers"][number] for name, t in told.items()}
            self.assertAlmostEqual(layers["published"]["objective_loss"] ** 0.5, layers["published"]["loss"], places=6)
            for layer in layers.values():
                self.assertLessEqual(layers["published"]["loss"], layer["loss"] * (1 + 1e-9))
                self.assertTrue(0 < layer["relative_loss"] < 1.5 or layer is layers["gradient"])
        again = self.prune("by_gradient", "--keep-total", 9, "--objective", "gradient", "--method", "search", "--block", 2)
        self.assertEqual(sum(self.counts(again)), 9)
        self.refused("prune", self.model, "--capture", self.dir / "weighed", "--objective", "gradient", "--keep", 4,
                     "--out", self.dir / "new", code=2, says="--objective")

    def test_layers_choose_together(self):
        """Never worse in front of the block's end than layer by layer; a block of one layer with one set is none."""
        plain = self.prune("alone", "--keep", 4, "--method", "genetic")
        for method in ("genetic", "search", "exact"):
            told = self.prune(f"block_{method}", "--keep", 4, "--method", method, "--block", 2)
            self.assertEqual(self.counts(told), [4, 4])
            block, = told["blocks"]
            self.assertEqual([block["first"], block["layers"], block["tried"]], [0, 2, 9])
            self.assertLessEqual(block["loss"], block["greedy"])
        told = self.prune("block_of_one", "--keep", 4, "--method", "genetic", "--block", 1, "--candidates", 1)
        self.assertEqual([layer["keep"] for layer in told["layers"]], [layer["keep"] for layer in plain["layers"]])
        self.assertEqual([b["tried"] for b in told["blocks"]], [1, 1])
        for layer, alone in zip(told["layers"], plain["layers"]):
            self.assertEqual(layer["loss"], alone["loss"])
        start = ("prune", self.model, "--keep", 4, "--out", self.dir / "new", "--block", 2)
        self.refused(*start, "--ids", self.ids, "--method", "reap", code=2, says="--block")
        self.refused(*start, "--ids", self.ids, "--method", "search", "--prove", 9, code=2, says="--prove")
        self.refused(*start, "--ids", self.ids, "--progressive", code=2, says="--block")
        self.refused(*start, "--capture", self.capture("for_block"), code=2, says="--block")

    def test_a_proof(self):
        told = self.prune("proved", "--keep", 5, "--method", "search", "--prove", 10000)
        best = self.prune("best", "--keep", 5, "--method", "exact", "--capture", self.dir / "for_proof")
        for found, least in zip(told["layers"], best["layers"]):
            self.assertTrue(found["proof"]["proved"])
            self.assertEqual(found["keep"], least["keep"])
        told = self.prune("unproved", "--keep", 5, "--method", "search", "--prove", 1)
        for found, least in zip(told["layers"], best["layers"]):
            self.assertLessEqual(found["proof"]["bound"], least["objective_loss"] * (1 + 1e-9))
            self.assertGreaterEqual(found["proof"]["gap"], 0)

    def test_threads_change_nothing(self):
        for threads in (1, 2):
            self.prune(f"by{threads}", "--keep-total", 9, "--method", "search", "--threads", threads)
        self.assertEqual(self.files(self.dir / "by1"), self.files(self.dir / "by2"))

    def test_rare_experts_are_named(self):
        start = ("prune", self.model, "--ids", self.ids, "--keep", 4, "--method", "reap", "--out")
        self.assertEqual(self.done(*start, self.dir / "quiet", "--least-tokens", 0).stderr, "")
        errors = self.done(*start, self.dir / "loud", "--least-tokens", 1000).stderr
        self.assertEqual(errors.count("calibration tokens"), 16)
        self.assertRegex(errors, r"layer [01]: expert \d saw only \d+ calibration tokens")


    def test_super_experts_are_pinned(self):
        """An expert of the second layer that seldom answers, but fifty times as loud."""
        plain = self.prune("quiet_one", "--keep", 3, "--method", "frequency")
        rare = min(range(8), key=lambda e: plain["layers"][1]["coverage"][e])
        self.assertGreater(plain["layers"][1]["coverage"][rare], 0)
        self.assertEqual([layer["pinned"] for layer in plain["layers"]], [[], []])
        tensors = dict(self.tensors)
        name = f"model.layers.1.block_sparse_moe.experts.{rare}.w2.weight"
        kind, shape, data = tensors[name]
        loud = [50 * v for v in models.numbers(tensors[name])]
        tensors[name] = models.tensor(kind, shape, loud)
        models.write_model(self.dir / "loud_model", self.config, tensors, self.tokenizer)
        call = ("prune", self.dir / "loud_model", "--ids", f"{self.ids}:batches", "--keep", 3, "--json", "--out")
        for method in ("frequency", "search"):
            result = self.done(*call, self.dir / f"pinned_{method}", "--method", method)
            told = json.loads(result.stdout)
            self.assertEqual([layer["pinned"] for layer in told["layers"]], [[], [rare]])
            self.assertIn(rare, told["layers"][1]["keep"])
            self.assertEqual(told["layers"][1]["super_experts_dropped"], [])
            self.assertIn(f"layer 1: expert {rare} is pinned", result.stderr)
        result = self.done(*call, self.dir / "free", "--method", "frequency", "--pin-super", 0)
        self.assertEqual(json.loads(result.stdout)["layers"][1]["super_experts_dropped"], [rare])
        self.assertIn(f"layer 1: expert {rare} is dropped", result.stderr)
        told = json.loads(self.done(*call, self.dir / "exact_pins", "--pin-super", 5).stdout)
        self.assertIn("objective_loss", told["layers"][0])  # on a record
        self.refused(*call[:6], "--out", self.dir / "new", "--progressive", "--pin-super", 5, code=2, says="--pin-super")


class Counts(PruneTest):
    def test_shares_are_rounded_and_told(self):
        for share, counts in (("0.5", [4, 4]), ("0.56", [4, 4]), ("0.5625", [5, 5]), ("0.9,0.3", [7, 2]),
                              ("1.0,3", [8, 3])):
            with self.subTest(share):
                call = ("prune", self.model, "--ids", self.ids, "--keep", share, "--json", "--out", self.dir / share)
                result = self.done(*call)
                self.assertEqual(self.counts(json.loads(result.stdout)), counts)
                self.assertIn(f"keeps {counts[0]} {counts[1]} of 8 8 experts", result.stderr)

    def test_a_total_is_shared_out_where_it_loses_least(self):
        capture = self.capture("for_total")
        curves = []
        for keep in range(2, 9):
            told = self.json_of("prune", self.model, "--capture", capture, "--keep", keep, "--method", "nested",
                                "--out", self.dir / f"curve{keep}")
            curves.append([layer.get("relative_loss", 0) for layer in told["layers"]])
        best = min(((a, b) for a in range(2, 9) for b in range(2, 9) if a + b <= 9),
                   key=lambda c: curves[c[0] - 2][0] + curves[c[1] - 2][1])
        told = self.json_of("prune", self.model, "--capture", capture, "--keep-total", 9, "--method", "nested", "--out",
                            self.dir / "total")
        self.assertEqual(self.counts(told), list(best))
        told = self.json_of("prune", self.model, "--capture", capture, "--keep-total", 9, "--uniform", "--out",
                            self.dir / "uniform")
        self.assertEqual(self.counts(told), [4, 4])

    def test_one_ranking_over_all_layers(self):
        """Two experts of each layer, then the most frequent ones of any."""
        capture = self.capture("for_ranking")
        start = ("prune", self.model, "--capture", capture, "--method", "frequency", "--share", "score", "--out")
        for total, slack in ((5, 0), (9, 0), (13, 0), (9, 2)):
            told = self.json_of(*start, self.dir / f"ranked{total}{slack}", "--keep-total", total,
                                *(["--slack", slack] if slack else []))
            ranked = [sorted(((-n, e) for e, n in enumerate(layer["coverage"]))) for layer in told["layers"]]
            kept = [{e for _, e in layer[:2 + slack]} for layer in ranked]
            rest = sorted((n, number, e) for number, layer in enumerate(ranked) for n, e in layer[2 + slack:])
            for _, number, e in rest[:total - 2 * (2 + slack)]:
                kept[number].add(e)
            self.assertEqual([set(layer["keep"]) for layer in told["layers"]], kept)
        out = (*start, self.dir / "new")
        for more, says in ((["--keep", 4], "--keep-total"), (["--budget", "1MB"], "--keep-total"),
                           (["--keep-total", 9, "--uniform"], "--uniform"), (["--keep-total", 7, "--slack", 2], "8"),
                           (["--keep", 4, "--slack", 1], "--slack")):
            self.refused(*out, *more, code=2, says=says)
        self.refused("prune", self.model, "--capture", capture, "--keep-total", 9, "--share", "score", "--out",
                     self.dir / "new", code=2, says="--method")

    def test_every_layer_keeps_its_slack(self):
        capture = self.capture("for_slack")
        for method in ("nested", "reap"):
            told = self.json_of("prune", self.model, "--capture", capture, "--keep-total", 10, "--slack", 3, "--method",
                                method, "--out", self.dir / f"slack_{method}")
            self.assertEqual(self.counts(told), [5, 5])

    def test_a_budget_of_bytes_holds(self):
        expert = 4 * (3 * 12 * 16 + 16)
        whole = sum(len(data) for _, _, data in self.tensors.values())
        for dropped in (1, 5, 8):
            told = self.prune(f"bytes{dropped}", "--budget", f"{(whole - dropped * expert) / 1000:.3f}kB")
            held = models.read_safetensors(self.dir / f"bytes{dropped}" / "model.safetensors")
            self.assertEqual(sum(self.counts(told)), 16 - dropped)
            self.assertEqual(sum(len(data) for _, _, data in held.values()), whole - dropped * expert)
        self.assertEqual(self.counts(self.prune("ample", "--budget", "1GiB")), [8, 8])

    def test_counts_that_cannot_be(self):
        start = ("prune", self.model, "--ids", self.ids, "--out", self.dir / "new")
        for more, says in ((["--keep", "0.95"], ["would prune no expert", "8 8 of 8 8"]), (["--keep", "0.1"], "layer 0"),
                           (["--keep", "4,1"], ["layer 1", "uses 2"]), (["--keep", "1e9"], "no number"),
                           (["--keep", "0.5x"], "no number"), (["--keep", "0.0"], "no number"),
                           (["--keep", "0.5,0.5,0.5"], "2 layers"),
                           (["--keep-total", 3], "need 4 at least"), (["--budget", "1kB"], "the smallest model has"),
                           (["--budget", "6XB"], "6XB"), (["--budget", "GB"], "no size"), (["--budget", "-1"], ""),
                           (["--keep", 4, "--keep-total", 8], "one of them"), (["--keep", 4, "--uniform"], "--uniform"),
                           (["--keep", 4, "--method", "search", "--all-losses"], "--all-losses"),
                           (["--keep", 4, "--method", "reap", "--prove", 5], "--prove"),
                           (["--keep", 4, "--method", "sampled", "--objective", "output"], "--objective"),
                           (["--keep", 4, "--progressive", "--method", "reap"], "--progressive"),
                           (["--keep-total", 8, "--progressive"], "--progressive"), ([], "--keep")):
            with self.subTest(more):
                self.refused(*start, *more, code=2, says=says)
        many = self.model_of("too_many", num_local_experts=20)
        self.refused("prune", many, "--ids", self.ids, "--out", self.dir / "new", "--keep", 9, "--method", "exact",
                     code=2, says=["20 experts", "search"])
        self.refused("prune", self.model, "--ids", self.ids, "--keep", 4, code=2, says="--out")


class Captures(PruneTest):
    def test_a_capture_answers_without_its_text(self):
        capture = self.capture("asked")
        before = self.files(capture)
        direct = self.prune("direct", "--keep", 4, "--method", "search")
        told = self.json_of("prune", self.model, "--capture", capture, "--keep", 4, "--method", "search", "--out",
                            self.dir / "from_capture")
        self.assertEqual([layer["keep"] for layer in told["layers"]], [layer["keep"] for layer in direct["layers"]])
        self.assertEqual(self.files(self.dir / "from_capture"), self.files(self.dir / "direct"))
        self.assertEqual(self.files(capture), before)

    def test_what_a_capture_reports(self):
        told = self.json_of("prune", self.model, "--capture", self.dir / "told", "--capture-only", "--ids",
                            f"{self.ids}:batches")
        self.assertEqual(told["tokens"], 80)
        self.assertEqual([sum(layer["coverage"]) for layer in told["layers"]], [160, 160])

    def test_fewer_tokens(self):
        told = self.json_of("prune", self.model, "--capture", self.dir / "short", "--capture-only", "--ids",
                            f"{self.ids}:batches", "--capture-tokens", 65)
        self.assertEqual(told["tokens"], 60)
        self.refused("prune", self.model, "--capture", self.dir / "none", "--capture-only", "--ids", self.ids,
                     "--capture-tokens", 19, code=2, says=["--capture-tokens", "20"])

    def test_text_stops_when_every_expert_has_enough(self):
        """The fewest sequences that do, found again one by one; the capture goes on to serve the same call."""
        least = []
        for sequences in range(1, 5):
            told = self.json_of("prune", self.model, "--capture", self.dir / f"first{sequences}", "--capture-only",
                                "--ids", f"{self.ids}:batches", "--capture-tokens", 20 * sequences)
            least.append(min(min(layer["coverage"]) for layer in told["layers"]))
        self.assertGreater(least[2], least[0])
        call = ("prune", self.model, "--capture", self.dir / "enough", "--ids", f"{self.ids}:batches", "--enough",
                least[2], "--json")
        for more in (["--capture-only"], ["--keep", 4, "--out", self.dir / "enough.out"]):
            result = self.done(*call, *more)
            sequences = 1 + next(i for i, tokens in enumerate(least) if tokens >= least[2])
            self.assertEqual(json.loads(result.stdout)["tokens"], 20 * sequences)
            self.assertIn(f"{sequences} of 4 sequences give every expert {least[2]} tokens", result.stderr)
        told = self.done("prune", self.model, "--capture", self.dir / "never", "--capture-only", "--ids",
                         f"{self.ids}:batches", "--enough", 1000)
        self.assertIn("all 4 sequences leave experts with fewer than 1000 tokens", told.stderr)
        self.refused("prune", self.model, "--capture", self.dir / "enough", "--enough", 1, "--keep", 4, "--out",
                     self.dir / "new", code=2, says="--enough")

    def test_captures_of_other_models_and_texts_are_refused(self):
        capture = self.capture("mine")
        other = self.model_of("foreign")
        start = ("--keep", 4, "--out", self.dir / "new", "--capture")
        self.refused("prune", other, *start, capture, says=["another model", str(capture)])
        self.refused("prune", self.model, *start, capture, "--calibrate", self.text, "--length", 32,
                     says=["another text", str(capture)])
        self.refused("prune", self.model, *start, self.dir / "absent", code=2, says="absent")
        self.refused("prune", self.model, *start, self.model, "--ids", self.ids, code=2, says="no capture")
        self.refused("prune", self.model, "--capture", capture, "--capture-only", "--keep", 4, code=2, says="--keep")
        self.refused("prune", self.model, "--capture-only", "--ids", self.ids, code=2, says="--capture")
        self.refused("prune", self.model, *start, capture, "--progressive", code=2, says="--progressive")
        damaged = self.dir / "damaged"
        shutil.copytree(capture, damaged)
        (damaged / "layer-0001.safetensors").write_bytes(b"\0" * 100)
        self.refused("prune", self.model, *start, damaged, says="layer-0001.safetensors")
        (damaged / "layer-0001.safetensors").unlink()
        self.refused("prune", self.model, *start, damaged, says=["not finished", "layer 1"])

    def test_a_full_disk_leaves_no_output(self):
        capture = self.capture("full")
        self.refused("prune", self.model, "--capture", capture, "--keep", 4, "--out", self.dir / "new",
                     preexec_fn=small_disk, says="output")

    def test_merged_captures(self):
        parts = [self.capture("part0"), self.dir / "part1"]
        self.json_of("prune", self.model, "--capture", parts[1], "--capture-only", "--calibrate", self.text, "--length",
                     32, "--sequences", 4)
        told = self.json_of("merge-captures", *parts, "--out", self.dir / "parts")
        self.assertEqual(told, {"layers": 2, "tokens": 80 + 128})
        coverage = []
        for capture in (*parts, self.dir / "parts"):
            told = self.json_of("prune", self.model, "--capture", capture, "--keep", 4, "--method", "frequency",
                                "--out", self.dir / f"{capture.name}.pruned")
            coverage.append(told["layers"][1]["coverage"])
        self.assertEqual([a + b for a, b in zip(*coverage[:2])], coverage[2])
        self.refused("merge-captures", parts[0], parts[0], "--out", self.dir / "twice", says="same text")
        self.refused("merge-captures", parts[0], self.model, "--out", self.dir / "twice", says="capture.json")


class Interrupted(PruneTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        config = models.mixtral_config(cls.config["vocab_size"], num_hidden_layers=16)
        cls.deep = cls.dir / "deep"
        models.write_model(cls.deep, config, models.random_tensors(config), cls.tokenizer)
        cls.long = cls.dir / "long.safetensors"
        cls.write_ids(cls.long, [16, 32, 64])

    def interrupt(self, call, wait):
        """Starts the call and interrupts it when wait(process) returns."""
        process = subprocess.Popen([CHOIR, *map(str, call), "--threads", "1"], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        wait(process)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 4, errors)
        self.assertEqual(output, b"")
        self.assertRegex(errors, rb"\Achoir: interrupted[^\n]*\n\Z")

    @staticmethod
    def until(path):
        def wait(process):
            while not path.exists() and process.poll() is None:
                pass
        return wait

    def test_a_capture_keeps_its_finished_layers_and_goes_on(self):
        call = ["prune", self.deep, "--ids", f"{self.long}:batches", "--keep", 4, "--capture"]
        part, whole = self.dir / "part", self.dir / "whole"
        self.interrupt([*call, part, "--out", self.dir / "out"], self.until(part / "layer-0001.safetensors"))
        self.assertFalse((self.dir / "out").exists())
        kept = self.files(part)
        self.assertTrue(3 <= len(kept) < 17, kept.keys())
        self.assertFalse([name for name in kept if "partial" in name])
        self.refused(*call[:2], "--capture", part, "--keep", 4, "--out", self.dir / "out", says="not finished")
        self.done(*call, part, "--out", self.dir / "out")
        self.done(*call, whole, "--out", self.dir / "other")
        self.assertEqual(self.files(part), self.files(whole))
        self.assertEqual({name: data for name, data in self.files(part).items() if name in kept}, kept)
        self.assertEqual(self.files(self.dir / "out"), self.files(self.dir / "other"))

    def test_without_a_capture_nothing_is_left(self):
        before = sorted(os.listdir(self.dir))
        call = ["prune", self.deep, "--ids", f"{self.long}:batches", "--keep", "0.5", "--method", "search", "--out",
                self.dir / "never"]
        self.interrupt(call, lambda process: self.assertIn(b"shares rounded", process.stderr.readline()))
        self.assertEqual(sorted(os.listdir(self.dir)), before)


class Memory(PruneTest):
    def test_sequences_are_as_many_as_fit(self):
        call = ("prune", self.model, "--keep", 4, "--method", "search", "--ids", f"{self.ids}:batches", "--json", "--out")
        tokens = []
        for number, size in enumerate(("411kB", "430kB", "1GiB")):
            result = self.done(*call, self.dir / f"fits{number}", "--memory", size)
            tokens.append(json.loads(result.stdout)["tokens"])
            self.assertIn(f"{tokens[-1] // 20} of 4 sequences fit into", result.stderr)
        self.assertTrue(20 == tokens[0] < tokens[1] < tokens[2] == 80, tokens)
        few = (*call[:-2], "--out", self.dir / "new", "--memory")
        self.refused(*few, "1kB", code=2, says=["--memory", "one takes"])
        self.refused(*few, "1XB", code=2, says=["--memory", "no size"])

    def test_what_is_promised_holds(self):
        """The most memory that the process ever had, beside that of a run on two sequences."""
        wide = self.model_of("wide", num_local_experts=32, hidden_size=64, intermediate_size=16, num_hidden_layers=3)
        ids = self.dir / "many.safetensors"
        self.write_ids(ids, [64, 4, 64])

        def peak(name, *more):
            call = [CHOIR, "prune", wide, "--ids", f"{ids}:batches", "--keep", 16, "--method", "nested", "--threads", 1,
                    "--json", "--out", self.dir / name, *more]
            child = subprocess.Popen(list(map(str, call)), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            output = child.stdout.read()
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = status
            for pipe in (child.stdout, child.stderr):
                pipe.close()
            self.assertEqual(status, 0)
            return usage.ru_maxrss * 1024, json.loads(output)["tokens"]

        small, _ = peak("peak_small", "--capture-tokens", 256)
        budget = 24_000_000
        large, tokens = peak("peak_large", "--memory", budget)
        self.assertTrue(2048 < tokens < 16384, tokens)
        self.assertLess(large - small, budget)


class Narrower(PruneTest):
    """Neurons, and equal numbers of experts by padding."""

    def test_neurons_go(self):
        wide = self.model_of("neurons", intermediate_size=64)
        for name, more, experts in (("alone", [], 8), ("with_keep", ["--keep", 5, "--method", "reap"], 5),
                                    ("published", ["--keep", 5], 5)):
            told = self.prune(name, "--neurons", 0.5, *more, model=wide)
            widths = [layer["expert_widths"] for layer in told["layers"]]
            self.assertEqual([len(w) for w in widths], [experts, experts])
            self.assertTrue(all(w % 16 == 0 and w > 0 for row in widths for w in row))
            self.assertEqual(sum(map(sum, widths)), 2 * experts * 64 // 2)
            written = models.read_safetensors(self.dir / name / "model.safetensors")
            for number, row in enumerate(widths):
                for e, width in enumerate(row):
                    tensor = written[f"model.layers.{number}.block_sparse_moe.experts.{e}.w1.weight"]
                    self.assertEqual(tensor[1], [width, 16])
            self.json_of("forward", self.dir / name, "--ids", self.ids, "--out", self.dir / f"{name}.out")
        whole = self.prune("all_neurons", "--neurons", 1, model=wide)
        self.assertEqual([layer["expert_widths"] for layer in whole["layers"]], [[64] * 8] * 2)

    def test_narrower_experts_are_repaired(self):
        wide = self.model_of("to_repair", intermediate_size=64)
        text = ("--calibrate", self.text, "--length", 32, "--hold-out", 0.2)
        plain = self.json_of("prune", wide, *text, "--neurons", 0.5, "--keep", 6, "--out", self.dir / "unrepaired")
        told = self.json_of("prune", wide, *text, "--neurons", 0.5, "--keep", 6, "--repair", "--out",
                            self.dir / "narrow_repaired")
        steps = told["repair"]
        self.assertAlmostEqual(steps[0]["after"], plain["held_out"]["kl_mean"], places=12)
        self.assertTrue({"drop", "novice", "ridge", "ridge alone"} >= {step["name"] for step in steps[1:]})
        self.assertIn("ridge", [step["name"] for step in steps])
        self.assertEqual([l["expert_widths"] for l in told["layers"]], [l["expert_widths"] for l in plain["layers"]])

    def test_padding_changes_no_logit(self):
        router = "linear(sigmoid) > top_k(2) > all > sigmoid_norm(2.5) + bias(0.001)"
        model = self.dir / "biased"
        tensors = dict(self.tensors)
        for number in range(2):
            at = f"model.layers.{number}.block_sparse_moe.router_state"
            tensors[at] = models.tensor("F32", [8], [0.01 * e for e in range(8)])
        models.write_model(model, self.config | {"choir": {"router": router}}, tensors, self.tokenizer)
        plain = self.prune("unpadded", "--keep", "6,3", model=model)
        told = self.prune("padded", "--keep", "6,3", "--pad", model=model)
        keep = [layer["keep"] for layer in plain["layers"]]
        self.assertEqual([layer["keep"] for layer in told["layers"]], keep)
        self.assertEqual([len(layer["padding"]) for layer in told["layers"]], [0, 3])
        self.assertFalse(set(told["layers"][1]["padding"]) & set(keep[1]))
        logits = []
        for name in ("unpadded", "padded"):
            self.done("forward", self.dir / name, "--ids", self.ids, "--out", self.dir / f"{name}.logits")
            logits.append(models.read_safetensors(self.dir / f"{name}.logits")["logits"])
        self.assertEqual(logits[0], logits[1])
        config = json.loads((self.dir / "padded" / "config.json").read_text())
        self.assertEqual(config["num_local_experts"], 6)
        self.assertNotIn("experts", config["choir"])
        plan = self.dir / "padded.json"
        self.prune("planned", "--keep", "6,3", "--save-plan", plan, model=model)
        told = self.json_of("prune", model, "--plan", plan, "--pad", "--out", self.dir / "padded_by_plan")
        self.assertEqual(self.files(self.dir / "padded_by_plan"), self.files(self.dir / "padded"))
        self.assertEqual(len(told["layers"][1]["padding"]), 3)

    def test_what_does_not_go_together(self):
        start = ("prune", self.model, "--ids", self.ids, "--out", self.dir / "new")
        self.refused(*start, "--keep", "6,3", "--pad", code=2, says=["no bias", "--uniform", "layer 0"])
        for more, says in ((["--neurons", 0.5, "--pad"], "--neurons"), (["--neurons", 0], "--neurons"),
                           (["--neurons", 0.5, "--keep-total", 9, "--uniform"], "--neurons"),
                           (["--neurons", 0.5, "--plan", self.dir / "p"], "--plan")):
            self.refused(*start, *more, code=2, says=says)
        self.refused("prune", self.model, "--capture", self.capture("no_text"), "--neurons", 0.5, "--out",
                     self.dir / "new", code=2, says="--neurons")
        self.refused("prune", self.model, "--ids", self.ids, "--neurons", 0.5, "--save-plan", self.dir / "p", code=2,
                     says="--out")


class Plans(PruneTest):
    def test_a_nested_plan_gives_every_count(self):
        plan = self.dir / "nested.json"
        for method in ("nested", "reap"):
            first = self.prune(f"first_{method}", "--keep", 5, "--method", method, "--save-plan", plan, "--force")
            held = json.loads(plan.read_text())
            self.assertEqual([held["criterion"], held["nested"], held["counts"]], [method, True, [5, 5]])
            self.assertEqual([len(s["keep"]) for s in held["layers"][0]["sets"]], list(range(2, 9)))
            told = self.json_of("prune", self.model, "--plan", plan, "--out", self.dir / f"planned_{method}")
            self.assertEqual([layer["keep"] for layer in told["layers"]], [layer["keep"] for layer in first["layers"]])
            self.assertEqual(self.files(self.dir / f"planned_{method}"), self.files(self.dir / f"first_{method}"))
            direct = self.prune(f"direct_{method}", "--keep", "4,3", "--method", method)
            told = self.json_of("prune", self.model, "--plan", plan, "--keep", "0.5,3", "--out",
                                self.dir / f"other_{method}")
            self.assertEqual([layer["keep"] for layer in told["layers"]],
                             [layer["keep"] for layer in direct["layers"]])

    def test_a_plan_alone(self):
        plan = self.dir / "alone.json"
        self.json_of("prune", self.model, "--ids", self.ids, "--keep", 4, "--save-plan", plan)
        held = json.loads(plan.read_text())
        self.assertEqual([held["criterion"], held["nested"], len(held["layers"][0]["sets"])], ["exact", False, 1])
        self.refused("prune", self.model, "--plan", plan, "--keep", 5, "--out", self.dir / "new", code=2,
                     says=["no set of 5", "layer 0"])

    def test_wrong_plans(self):
        plan, out = self.dir / "wrong.json", ("--out", self.dir / "new")
        self.json_of("prune", self.model, "--ids", self.ids, "--keep", 4, "--save-plan", plan)
        call = ("prune", self.model, "--plan", plan, *out)
        self.refused("prune", self.model_of("stranger"), "--plan", plan, *out, says=["another model", str(plan)])
        for more in (["--calibrate", self.text], ["--ids", self.ids], ["--method", "reap"], ["--keep-total", 8],
                     ["--repair"], ["--capture", self.dir / "c"], ["--save-plan", self.dir / "p"]):
            with self.subTest(more):
                self.refused(*call, *more, code=2, says=["--plan with", more[0]])
        self.refused("prune", self.model, "--plan", plan, code=2, says="--out")
        self.refused("prune", self.model, "--plan", self.dir / "absent", *out, says="absent")
        self.refused("prune", self.model, "--ids", self.ids, "--keep", 4, "--save-plan", plan, code=2, says=str(plan))
        held = json.loads(plan.read_text())
        held["layers"][0]["sets"][0]["keep"] = [0]
        held["counts"][0] = 1
        plan.write_text(json.dumps(held))
        self.refused(*call, says=["uses 2", str(plan)])
        plan.write_text("{")
        self.refused(*call, says=str(plan))


class Repairs(PruneTest):
    def test_the_divergence_is_that_of_the_text_held_out(self):
        """The last of four sequences, worked out again from the logits of both models."""
        told = self.prune("held", "--keep", 4, "--hold-out", 0.25)
        self.assertEqual([told["tokens"], told["held_out"]["tokens"]], [60, 19])
        values = models.numbers(models.read_safetensors(self.ids)["batches"])[60:]
        last = self.dir / "last.safetensors"
        models.write_safetensors(last, {"input_ids": models.tensor("I64", [1, 20], values)})
        logits = []
        for model in (self.model, self.dir / "held"):
            out = self.dir / f"{model.name}.logits"
            self.done("forward", model, "--ids", last, "--out", out)
            logits.append(models.numbers(models.read_safetensors(out)["logits"]))
        vocab, total = self.config["vocab_size"], 0
        for row in range(19):
            p, q = ([x - math.log(sum(map(math.exp, z))) for x in z]
                    for z in (all_rows[row * vocab:row * vocab + vocab] for all_rows in logits))
            total += sum(math.exp(a) * (a - b) for a, b in zip(p, q))
        self.assertAlmostEqual(told["held_out"]["kl_mean"] / (total / 19), 1, places=4)
        without = self.json_of("prune", self.model, "--keep", 4, "--ids", self.ids, "--out", self.dir / "without")
        self.assertNotIn("held_out", without)

    def test_repairs_are_kept_where_the_divergence_falls(self):
        call = ("--calibrate", self.text, "--length", 32, "--keep", 4)
        plain = self.json_of("prune", self.model, *call, "--hold-out", 0.1, "--out", self.dir / "plain")
        result = self.done("prune", self.model, *call, "--repair", "--json", "--out", self.dir / "repaired")
        told = json.loads(result.stdout)
        self.assertEqual([layer["keep"] for layer in told["layers"]], [layer["keep"] for layer in plain["layers"]])
        steps = told["repair"]
        self.assertEqual(steps[0]["name"], "pruned")
        self.assertAlmostEqual(steps[0]["after"], plain["held_out"]["kl_mean"], places=12)
        value = steps[0]["after"]
        for step in steps[1:]:
            self.assertEqual([step["before"], step["kept"]], [value, step["after"] < value])
            value = step["after"] if step["kept"] else value
            self.assertIn(f"{step['name']:8} held-out KL", result.stderr)
        self.assertTrue(any(step["kept"] for step in steps[1:]))
        self.assertEqual(told["held_out"]["kl_mean"], value)
        self.assertLess(value, steps[0]["after"])
        self.json_of("eval", self.dir / "repaired", "--against", self.model, "--text", self.text)

    def test_chosen_repairs_from_a_capture(self):
        text = ("--calibrate", self.text, "--length", 32)
        capture = ("--capture", self.dir / "for_repair")
        self.json_of("prune", self.model, *text, *capture, "--capture-only", "--hold-out", 0.1)
        told = self.json_of("prune", self.model, *text, *capture, "--keep", 4, "--repair=scalar,ridge", "--out",
                            self.dir / "scaled")
        self.assertEqual([step["name"] for step in told["repair"]][:3], ["pruned", "scalar", "ridge"])

    def test_wrong_repairs(self):
        start = ("prune", self.model, "--keep", 4, "--out", self.dir / "new")
        self.refused(*start, "--ids", self.ids, "--repair=pray", code=2, says=["pray", "ridge"])
        self.refused(*start, "--ids", self.ids, "--hold-out", 2, code=2)
        self.refused(*start, "--capture", self.capture("silent"), "--repair", code=2, says="hold out")
        one = self.dir / "one.safetensors"
        models.write_safetensors(one, {"input_ids": models.tensor("I64", [1, 20], range(20))})
        self.refused(*start, "--ids", one, "--repair", says="too few sequences")
        self.refused("prune", self.model, "--keep", 4, "--ids", self.ids, "--repair", "--save-plan", self.dir / "p",
                     code=2, says="--out")
        self.refused(*start, "--calibrate", self.text, "--length", 32, "--sequences", 10**6, says="too few tokens")


if __name__ == "__main__":
    unittest.main()
