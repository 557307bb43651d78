"""choir prune --explore and choir fit: the frontier of a model, and the best model of a size. cli_explore_test.py CHOIR"""
import re
import unittest

import cli_models as models
from cli_case import TEXT, CliTest, snapshot

COLUMNS = ["method", "keep_ratio", "skip_share", "experts", "evaluations", "skipped_share", "bytes_per_token",
           "bytes", "bytes_share", "calibration_loss", "kl_mean", "kl_spread", "draws", "kl_p99", "perplexity",
           "top1_agreement", "accuracy", "decode_tokens_per_second",
           "decode_speedup", "prefill_tokens_per_second", "prefill_speedup", "knee"]
PRUNING = ["search", "uniform", "reap", "frequency", "random"]


def chord_knee(points):
    """The place of the point furthest below the line from the first to the last."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    below = [1 - (x - x0) / (x1 - x0) - (y - y1) / (y0 - y1) for x, y in points]
    return max(range(len(points)), key=lambda i: (below[i], i)) if y0 > y1 and max(below) > 1e-12 else None


class ExploreTest(CliTest):
    def explore(self, *more, rounds=1):
        return ("prune", self.model, "--explore", "--calibrate", self.text, "--length", 16, "--rounds", rounds, *more)

    def fit(self, budget, *more):
        return ("fit", self.model, "--budget", budget, "--calibrate", self.text, "--length", 16, *more)

    def test_every_model_has_every_number(self):
        choices = self.dir / "choices.jsonl"
        choices.write_text('{"context": "In year", "choices": [" 1", " the"], "gold": 0}\n')
        told = self.json_of(*self.explore("--choices", choices, "--combine", "--keep-ratios", "0.75,0.5",
                                          "--skip-shares", "0.8,0.6"))
        models = told["models"]
        for model in [told["full"], *models]:
            self.assertEqual(list(model), COLUMNS)
            for name in ["bytes", "perplexity", "accuracy", "decode_tokens_per_second", "prefill_tokens_per_second"]:
                self.assertIsNotNone(model[name], model)
            self.assertGreater(model["decode_tokens_per_second"], 0)
        methods = [model["method"] for model in models]
        self.assertEqual(methods, PRUNING * 2 + ["search + skip"] * 4 + ["skip"] * 2)
        self.assertEqual([told["full"][k] for k in ("kl_mean", "top1_agreement", "bytes_share")], [0, 1, 1])
        unskipped = {model["keep_ratio"]: model["bytes_per_token"] for model in [told["full"], *models[::5][:2]]}
        for model in models:
            self.assertTrue(model["kl_mean"] > 0 and 0 <= model["top1_agreement"] <= 1, model)
            if "skip" in model["method"]:
                self.assertLessEqual(model["evaluations"], model["skip_share"] + 1e-9)
                self.assertTrue(0 < model["skipped_share"] <= 0.5, model)
                saved = model["skipped_share"] * 2 * 2 * 3 * 16 * 12 * 4  # of two layers' two experts in F32
                self.assertAlmostEqual(model["bytes_per_token"] + saved, unskipped[model["keep_ratio"]], delta=1)
            else:
                self.assertEqual(model["skipped_share"], 0)
                self.assertEqual(model["evaluations"], 1)
                self.assertLessEqual(sum(model["experts"]), 16 * model["keep_ratio"])
        self.assertLess(models[5]["bytes"], models[0]["bytes"])
        for name in ["rounds", "prompt_tokens", "decode_tokens", "threads", "cpu", "how"]:
            self.assertTrue(told["speed"][name], name)
        self.assertGreater(told["calibration_tokens"], 3 * told["held_out_tokens"])

    def test_numbers_are_those_of_prune_and_eval(self):
        """A model of the frontier, made again by hand and measured by choir eval on a held-out file."""
        held_out = self.dir / "held_out.txt"
        held_out.write_text(TEXT[::-1])
        told = self.json_of("prune", self.model, "--explore", "--ids", f"{self.ids}:batches", "--held-out", held_out,
                            "--keep-ratios", "0.5", "--skip-shares", "0.9", "--rounds", 0)
        self.assertIsNone(told["speed"])
        self.done("prune", self.model, "--keep", 8, "--ids", self.ids, "--out", self.dir / "whole")
        self.assertEqual(told["full"]["bytes"], (self.dir / "whole" / "model.safetensors").stat().st_size)
        again = self.dir / "frequent"
        self.done("prune", self.model, "--keep", 4, "--method", "frequency", "--ids", f"{self.ids}:batches", "--out",
                  again)
        model = next(m for m in told["models"] if m["method"] == "frequency")
        self.assertEqual(model["bytes"], (again / "model.safetensors").stat().st_size)
        self.assertEqual(model["experts"], [4, 4])
        by_eval = self.json_of("eval", self.model, "--against", again, "--text", held_out, "--exact")
        for name, other in {"kl_mean": "kl_mean", "kl_p99": "kl_p99", "top1_agreement": "top1_agreement",
                            "perplexity": "perplexity_other"}.items():
            self.assertAlmostEqual(model[name], by_eval[other], places=9)
        self.assertAlmostEqual(told["full"]["perplexity"] / by_eval["perplexity"], 1, places=6)
        for field in ("decode_tokens_per_second", "decode_speedup", "accuracy"):
            self.assertIsNone(model[field])

    def test_random_is_the_mean_of_its_draws(self):
        """Every draw made again by its own seed."""
        start = self.explore("--keep-ratios", "0.5", "--skip-shares", "0.9", rounds=0)
        told = [next(m for m in self.json_of(*start, "--draws", n, "--seed", seed)["models"] if m["method"] == "random")
                for n, seed in ((3, 4), (1, 4), (1, 5), (1, 6))]
        for name in ("kl_mean", "kl_p99", "perplexity", "top1_agreement", "calibration_loss"):
            self.assertAlmostEqual(told[0][name], sum(m[name] for m in told[1:]) / 3, places=9)
        kl = [m["kl_mean"] for m in told[1:]]
        self.assertEqual(len(set(kl)), 3)
        self.assertAlmostEqual(told[0]["kl_spread"], (max(kl) - min(kl)) / 2, places=9)
        self.assertEqual([m["draws"] for m in told], [3, 1, 1, 1])
        self.assertIsNone(told[1]["kl_spread"])
        self.assertIn("random, 50 % of the experts, mean of 20 draws", self.done(*start).stdout)

    def test_a_searched_model_can_be_pruned_by_hand(self):
        told = self.json_of(*self.explore("--keep-ratios", "0.6,0.4", "--seed", 3, rounds=0))
        text = ("--calibrate", self.text, "--length", 16, "--hold-out", 0.2, "--seed", 3)
        for model in (m for m in told["models"] if m["method"] in ("search", "uniform")):
            out = self.dir / f"{model['method']} {model['keep_ratio']}"
            by_hand = self.json_of("prune", self.model, "--keep", ",".join(map(str, model["experts"])), "--method",
                                   "search", "--objective", "stream", *text, "--out", out)
            self.assertEqual(by_hand["held_out"]["kl_mean"], model["kl_mean"])
            self.assertEqual((out / "model.safetensors").stat().st_size, model["bytes"])

    def test_a_capture_serves_again(self):
        start = self.explore("--capture", self.dir / "capture", "--keep-ratios", "0.5", "--skip-shares", "0.6", rounds=0)
        told = self.json_of(*start)
        before = snapshot(self.dir / "capture")
        self.assertEqual(self.json_of(*start), told)
        self.assertEqual(snapshot(self.dir / "capture"), before)
        self.assertEqual(self.json_of(*self.explore("--keep-ratios", "0.5", "--skip-shares", "0.6", rounds=0)), told)
        self.refused(*start, "--hold-out", "0.4", says="capture")

    def test_usual_ratios_and_knees(self):
        told = self.json_of(*self.explore(rounds=0))
        searched = [m for m in told["models"] if m["method"] == "search"]
        self.assertEqual([m["keep_ratio"] for m in searched], [7 / 8, 3 / 4, 5 / 8, 1 / 2, 3 / 8, 1 / 4])
        skipping = [m for m in told["models"] if m["method"] == "skip"]
        self.assertEqual([m["skip_share"] for m in skipping], [0.9, 0.8, 0.7, 0.6, 0.5])
        for line, cost in ((searched, "bytes"), (skipping, "evaluations")):
            line = sorted(line, key=lambda m: m[cost])
            points = [(m[cost], m["kl_mean"]) for m in line] + [(told["full"][cost], 0)]
            knee = chord_knee(points)
            self.assertEqual([i for i, m in enumerate(line) if m["knee"]], [] if knee is None else [knee])
        self.assertTrue(all(not m["knee"] for m in told["models"] if m["method"] not in ("search", "skip")))

    def test_the_page_needs_nothing_else(self):
        page = self.dir / "page.html"
        out = self.done(*self.explore("--keep-ratios", "0.75,0.5,0.375", "--skip-shares", "0.8,0.6,0.5", "--page", page))
        html = page.read_text()
        self.assertTrue(html.startswith("<!DOCTYPE html>") and html.endswith("</html>\n"))
        self.assertIsNone(re.search(r"https?:|src=|href=|url\(|@import|<script", html))
        self.assertEqual(html.count("<svg"), 3)
        for method in PRUNING + ["skip"]:
            self.assertIn(f"</i> {method}</span>", html)
        self.assertIn("prefers-color-scheme: dark", html)
        self.assertEqual(html.count("<tr"), 1 + 1 + 3 * 5 + 3)
        self.assertEqual("<- knee" in out.stdout, 'class="knee"' in html)
        self.assertIn("Speed: medians of 1 rounds", out.stdout)
        self.refused(*self.explore("--page", page), code=2, says=str(page))
        self.done(*self.explore("--keep-ratios", "0.5", "--skip-shares", "0.5", "--page", page, "--force"))

    def test_results_do_not_depend_on_threads(self):
        start = self.explore("--keep-ratios", "0.6,0.3", rounds=0)
        self.assertEqual(self.json_of(*start, "--threads", 1)["models"], self.json_of(*start, "--threads", 3)["models"])

    def test_wrong_explorations(self):
        start = ("prune", self.model, "--calibrate", self.text, "--length", 16)
        self.refused(*start, "--explore", "--out", self.dir / "new", code=2, says="--out")
        self.refused(*start, "--explore", "--keep", 4, code=2, says="--keep")
        self.refused(*start, "--explore", "--keep-ratios", "1.5", code=2, says="--keep-ratios")
        self.refused(*start, "--page", self.dir / "new.html", "--out", self.dir / "new", "--keep", 4, code=2,
                     says="--explore")
        self.refused(*start, "--explore", "--held-out", self.text, code=2, says="held out")
        self.refused("prune", self.model, "--explore", "--calibrate", self.text, "--sequences", 1, "--length", 16,
                     says="too few sequences")
        self.refused("prune", self.model, "--explore", code=2, says="--calibrate")
        self.refused(*start, code=2, says="--")

    def test_fit_never_exceeds_its_budget(self):
        present = (self.model / "model.safetensors").stat().st_size
        for budget, most in {"0.9": 0.9 * present, "0.7": 0.7 * present, f"{present // 1500}kB": present / 1.5,
                             f"{0.6 * present / 1024:.3f}KiB": 0.6 * present}.items():
            out = self.dir / f"fit {budget}"
            told = self.json_of(*self.fit(budget, "--out", out))
            best = [m for m in told["models"] if m["best"]]
            self.assertEqual(len(best), 1)
            self.assertEqual(best[0]["kl_mean"], min(m["kl_mean"] for m in told["models"]))
            written = (out / "model.safetensors").stat().st_size
            self.assertEqual(written, best[0]["bytes"])
            for model in told["models"]:
                self.assertLessEqual(model["bytes"], most)
            shown = self.json_of("inspect", out)
            self.assertEqual([layer["experts"] for layer in shown["layers"]], best[0]["experts"])
            types = {t[0] for name, t in models.read_safetensors(out / "model.safetensors").items() if ".experts." in
                     name and "novice" not in name}
            self.assertEqual(types, {best[0]["type"].upper()})
            self.assertIn("tokenizer.json", [p.name for p in out.iterdir()])

    def test_fit_compares_fewer_experts_with_fewer_bits(self):
        told = self.json_of(*self.fit("0.8"))
        kinds = {(m["type"], sum(m["experts"]) == 16, bool(m["repairs"])) for m in told["models"]}
        for kind in [("f32", False, False), ("bf16", True, False), ("f16", True, False)]:
            self.assertIn(kind, kinds)
        self.assertIsNone(told["out"])
        half = {m["type"]: m["kl_mean"] for m in told["models"] if sum(m["experts"]) == 16}
        fewer = min(m["kl_mean"] for m in told["models"] if m["type"] == "f32")
        self.assertTrue(half["f16"] < half["bf16"] < fewer, told)  # 11, 8 and 24 bits, of fewer experts
        text = self.done(*self.fit("0.8")).stdout
        self.assertEqual(text.count("<- best"), 1)
        self.assertIn("all experts in bf16", text)

    def test_wrong_budgets(self):
        for budget, words in {"6XB": "is no size", "900": "takes", "GB": "is no size", "-1GB": "is no size",
                              "nan": "is no size", "0": "is no size", "1": "nothing to do", "1GB": "nothing to do",
                              "9e99GB": "is no size", "1kB": "takes", "0.05": "takes"}.items():
            self.refused(*self.fit(f"{budget}"), code=2, says=["--budget", words])
        self.refused("fit", self.model, "--budget", "0.8", code=2, says="--calibrate")
        self.refused(*self.fit("0.5", "--out", self.model), code=2, says=str(self.model))


if __name__ == "__main__":
    unittest.main()
