"""choir report and choir doctor on runs of the trainer and on runs made up. cli_report_test.py CHOIR"""
import html.parser
import json
import math
import os
import re
import shutil
import subprocess
import unittest

import cli_models as models
from cli_case import CliTest, choir

EVIL = "<b>&"  # a directory may have such a name


def line(step, **changes):
    entry = {"step": step, "loss": 3 + 5 * math.exp(-step / 30) + 0.05 * math.sin(step), "balance_loss":
             0.04 + 1e-4 * math.sin(step), "gradient_norm": 0.5, "learning_rate": 1e-3, "tokens": 512 * step,
             "seconds": 0.5, "tokens_per_second": 1024.0, "share_of_peak": 0.4, "max_over_mean_load": 1.2,
             "layers": {"capacity": [None, None], "dead_experts": [0, 0], "max_over_mean_load": [1.2, 1.1],
                        "load_entropy": [2.0, 2.0], "router_gradient_norm": [0.02, 0.03]}}
    return json.dumps(entry | changes) + "\n"


def evaluation(step, loss, loss_training_rule):
    even = [[0.125] * 8] * 2
    return json.dumps({"step": step, "tokens": 512 * step, "seconds": 0.5 * step, "loss": loss, "loss_training_rule":
                       loss_training_rule, "agreement": 1, "domains": [
                           {"name": "</script>", "tokens": 9, "loss": loss, "loss_training_rule": loss_training_rule,
                            "load": even, "affinity": even}], "expert_cosine": [[[1] * 8] * 8] * 2,
                       "ch_index": [1, 2]}) + "\n"


class Page(html.parser.HTMLParser):
    """What a browser would find: the elements in their order, the text of scripts, and whether all that opens closes."""
    VOID = {"meta", "link", "img", "br", "input"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.open, self.sound = [], [], [], True
        self.feed(text)
        self.close()
        self.sound = self.sound and not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.sound = self.sound and bool(self.open) and self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data


class ReportTest(CliTest):
    def run_of(self, name, lines=60, evaluations=None, **files):
        """A directory with a run of its own."""
        directory = self.dir / name
        directory.mkdir(parents=True, exist_ok=True)
        metrics = "".join(line(step) for step in range(1, lines + 1)) if isinstance(lines, int) else lines
        (directory / "metrics.jsonl").write_text(metrics)
        if evaluations:
            (directory / "evaluations.jsonl").write_text(evaluations)
        for file, text in files.items():
            (directory / f"{file}.json").write_text(text)
        return directory

    def page_of(self, *runs, out="page.html"):
        self.done("report", *runs, "--out", self.dir / out, "--force")
        text = (self.dir / out).read_text(encoding="utf-8")
        return text, Page(text)


class Report(ReportTest):
    def test_a_page_is_one_file_that_loads_nothing(self):
        run = self.run_of("plain", evaluations=evaluation(30, 4, 3.9) + evaluation(60, 3.2, 3.1))
        text, page = self.page_of(run)
        self.assertTrue(page.sound)
        self.assertTrue(text.startswith("<!DOCTYPE html>"))
        self.assertIsNone(re.search(r"https?://|@import|url\((?!#)", text))
        for tag, attributes in page.tags:
            self.assertNotIn(tag, ("link", "img", "iframe", "object", "embed"))
            self.assertFalse({"src", "href", "srcset"} & set(attributes), tag)
        self.assertIn("default-src 'none'", text)
        kinds = [attributes.get("type") for tag, attributes in page.tags if tag == "script"]
        self.assertEqual(kinds, ["application/json", None])

    def test_the_data_reads_back(self):
        run = self.run_of("back", evaluations=evaluation(60, 3.2, 3.1),
                          run=json.dumps({"router": "linear > top_k(2)", "parameters": 5, "seed": 3}))
        (told,) = json.loads(self.page_of(run)[1].scripts[0])["runs"]
        self.assertEqual([told["name"], told["router"], told["parameters"], told["seed"]],
                         ["back", "linear > top_k(2)", 5, 3])
        self.assertEqual(told["steps"], 60)
        wanted = [json.loads(line(step))["loss"] for step in range(1, 61)]
        for got, exact in zip(told["curves"]["loss"]["mean"], wanted, strict=True):
            self.assertAlmostEqual(got, exact, delta=1e-4 * exact)
        self.assertNotIn("capacity", told["layers"])
        self.assertEqual(told["evaluations"][0]["loss_training_rule"], 3.1)
        self.assertEqual([f["check"] for f in told["findings"] if f["severity"] == "fault"], ["rule gap"])

    def test_names_are_escaped_and_made_to_differ(self):
        runs = [self.run_of(f"{place}/{EVIL}", evaluations=evaluation(9, 3, 3), run=json.dumps({"router": "<i>"}))
                for place in ("one", "two")]
        text, page = self.page_of(*runs)
        self.assertTrue(page.sound)
        self.assertNotIn(EVIL, text)
        self.assertNotIn("<i>", text)
        self.assertFalse([tag for tag, _ in page.tags if tag in ("b", "i")])
        self.assertEqual([run["name"] for run in json.loads(page.scripts[0])["runs"]], [EVIL, f"{EVIL} (2)"])

    def test_a_run_of_the_trainer(self):
        told = self.json_of("report", self.dir / "trained", "--out", self.dir / "trained.html")
        self.assertEqual(told["bytes"], (self.dir / "trained.html").stat().st_size)
        self.assertEqual([[run["name"], run["steps"]] for run in told["runs"]], [["trained", 2]])

    def test_a_run_that_still_goes_on(self):
        run = self.run_of("going", "".join(map(line, range(1, 5))) + line(5)[:40])
        told = self.json_of("report", run, "--out", self.dir / "going.html")
        self.assertEqual(told["runs"][0]["steps"], 4)

    def test_long_runs_make_no_large_page(self):
        text, page = self.page_of(self.run_of("long", 9000))
        self.assertLess(len(text), 1500000)
        loss = json.loads(page.scripts[0])["runs"][0]["curves"]["loss"]
        self.assertLessEqual(len(loss["low"]) + len(loss["high"]), 2000)

    def test_runs_that_have_just_begun_are_passed_over(self):
        good, new = self.run_of("good"), [self.run_of("none yet", ""), self.run_of("cut", '{"step"'), self.dir / "new"]
        new[-1].mkdir()
        out = ["--out", self.dir / "begun.html"]
        result = self.done("report", new[0], good, *new[1:], *out, "--json")
        self.assertEqual([run["name"] for run in json.loads(result.stdout)["runs"]], ["good"])
        self.assertEqual(result.stderr, "".join(f"{run}: no step yet, passed over\n" for run in new))
        self.refused("report", *new, "--out", self.dir / "never.html", says="no step")

    @unittest.skipUnless(shutil.which("node"), "no node: the page's own code is not run")
    def test_a_mean_over_domains_takes_what_is_known(self):
        text, _ = self.page_of(self.run_of("mean"))
        code = "\n".join(re.findall(r"^const known = [^\n]*|^function tableOf.*?^}$", text, re.M | re.S))
        domains = [{"tokens": 1, "affinity": [[1, None, None]]}, {"tokens": 3, "affinity": [[2, 5, None]]}]
        code += f"\nconsole.log(JSON.stringify(tableOf({json.dumps(domains)}, 'affinity')))"
        told = subprocess.run(["node", "-e", code], capture_output=True, encoding="utf-8", timeout=60)
        self.assertEqual(told.stdout, "[[1.75,5,null]]\n", told.stderr)

    @unittest.skipUnless(shutil.which("node"), "no node: the page's own code is not run")
    def test_evaluations_stand_where_their_step_does(self):
        text, _ = self.page_of(self.run_of("axis"))
        code = "\n".join(re.findall(r"^function (?:nearest|between|along|evaluationSeries)\(.*?^}$|^const known = [^\n]*",
                                    text, re.M | re.S))
        code = f"""{code}
            const state = {{axis: "tokens"}}, axis = () => ({{of: () => 1e-6}});
            const run = {{axis: {{step: [0, 10], tokens: [0, 5e6]}}, evaluations: [{{step: 4}}, {{step: 10}}]}};
            console.log(JSON.stringify(evaluationSeries(run, (e) => e.step, {{}}).x));"""
        told = subprocess.run(["node", "-e", code], capture_output=True, encoding="utf-8", timeout=60)
        self.assertEqual(told.stdout, "[2,5]\n", told.stderr)

    def test_bad_input_gives_one_line(self):
        good, out = self.run_of("good"), ["--out", self.dir / "never.html"]
        cases = {"torn": line(1) + '{"step": 2,\n' + line(3), "none": "hello\n", "list": "[]\n",
                 "lossless": '{"step": 1}\n', "again": line(1) + line(1), "deep": "[" * 1000 + "\n",
                 "word": line(1, loss="low")}
        for name, metrics in cases.items():
            with self.subTest(name):
                self.refused("report", good, self.run_of(f"bad {name}", metrics), *out, says="metrics.jsonl")
        self.refused("report", self.dir, *out, says="metrics.jsonl")
        self.refused("report", self.dir / "nowhere", *out, says="nowhere")
        self.refused("report", self.run_of("config", config="{"), *out, says="config.json")
        self.refused("report", self.run_of("about", run="[]"), *out, says="run.json")
        self.refused("report", self.run_of("evals", evaluations="{}\n"), *out, says="evaluations.jsonl: line 1")

    def test_the_output_in_the_way(self):
        run, out = self.run_of("way"), self.dir / "way.html"
        out.write_text("mine")
        self.refused("report", run, "--out", out, code=2, says=str(out))
        self.refused("report", run, "--out", run, "--force", code=2, says=str(run))
        self.refused("report", run, code=2, says="--out")
        self.refused("report", "--out", out, code=2, says="RUN")


class Doctor(ReportTest):
    def checks(self, *arguments, code):
        result = choir("doctor", *arguments, "--json")
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertEqual(result.stdout.count("\n"), 1)
        told = json.loads(result.stdout)
        self.assertTrue(told["cpu"] and told["kernels"])
        if code:
            self.assertRegex(result.stderr, r"\Achoir: [^\n]*fault[^\n]*\n\Z")
        return told["checks"]

    def test_the_machine(self):
        told = self.json_of("doctor")
        self.assertEqual(set(told), {"cpu", "processors", "kernels", "threads", "peak_gflops", "checks"})
        self.assertIn(told["kernels"], ("avx512 with vnni and bf16", "avx512 with vnni", "avx512", "avx2", "x86-64"))
        self.assertEqual([told["threads"], told["checks"]], [1, []])
        self.assertGreater(told["peak_gflops"], 0)
        self.assertIn(told["cpu"], self.done("doctor").stdout)

    def test_a_sound_run(self):
        about = json.dumps({"experts": [8, 8], "top_k": [2, 2]})
        checks = self.checks(self.run_of("sound", evaluations=evaluation(60, 3.1, 3.1), run=about), code=0)
        self.assertEqual({check["severity"] for check in checks}, {"ok"})
        self.assertNotIn("model", [check["check"] for check in checks])

    def test_a_faulty_run_ends_with_3_after_its_findings(self):
        leaking = self.run_of("leaking", evaluations=evaluation(60, 3.4, 3.1))
        faults = [check for check in self.checks(leaking, code=3) if check["severity"] == "fault"]
        self.assertEqual([fault["check"] for fault in faults], ["rule gap"])
        self.assertIn("3.4", faults[0]["message"])
        shown = choir("doctor", leaking)
        self.assertEqual(shown.returncode, 3)
        self.assertTrue(re.search(r"^fault +rule gap +loss", shown.stdout, re.M), shown.stdout)
        dead = "".join(line(n, layers={"dead_experts": [0, 1]}) for n in range(1, 61))
        (warning,) = [c for c in self.checks(self.run_of("dead", dead), code=0) if c["severity"] == "warning"]
        self.assertEqual([warning["check"], warning["layer"]], ["dead experts", 1])

    def test_a_model_and_a_run_with_its_model(self):
        self.assertEqual([(c["check"], c["severity"]) for c in self.checks(self.model, code=0)], [("model", "ok")])
        self.assertEqual([c["severity"] for c in self.checks(self.dir / "trained", code=0) if c["check"] == "model"],
                         ["ok"])
        self.assertIn("numbers", [c["check"] for c in self.checks(self.dir / "trained", code=0)])

    def test_a_damaged_model(self):
        gate = "model.layers.1.block_sparse_moe.gate.weight"
        broken = self.tensors | {gate: models.filled(self.tensors[gate], math.nan)}
        (fault,) = self.checks(self.broken_model(tensors=broken), code=3)
        self.assertIn(gate, fault["message"])
        self.assertIn("model.safetensors", self.checks(self.broken_model(weights=b"x"), code=3)[0]["message"])
        self.assertIn("safetensors", self.checks(self.broken_model(weights=None), code=3)[0]["message"])

    def test_what_is_neither(self):
        (self.dir / "hollow").mkdir()
        self.refused("doctor", self.dir / "hollow", says="hollow")
        self.refused("doctor", self.dir / "nowhere", says="nowhere")
        self.refused("doctor", self.text, says=str(self.text))
        self.refused("doctor", "x" * 5000, says="no such directory")
        self.refused("doctor", f"{self.dir}/{'x' * 300}", says="no such directory")
        deep = str(self.dir)
        while len(deep) < 4080:  # a path that may be, with files in it whose paths may not
            deep += "/" + "d" * min(200, 4090 - len(deep) - 1)
        os.makedirs(deep)
        self.refused("doctor", deep, says="neither a run nor a model")
        self.refused("doctor", self.run_of("broken run", "nonsense\n"), says="metrics.jsonl")


if __name__ == "__main__":
    unittest.main()
