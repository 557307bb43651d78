"""choir route: a router that is worked out by hand, and what the verb refuses. cli_route_test.py CHOIR"""
import math
import unittest

import cli_models as models
from cli_case import CliTest, small_disk

# Six tokens of four channels, two experts, kappa 2: cosines with the halves, and the probability of expert 0.
X = [1, 1, 0, 0, 2, 1, 2, 0, 4, 0, 0, 3, 1, 0, 2, 2, 2, 2, 1, 0, 0, 3, 4, 0]
COSINES = [1, 0, 0.707107, 0.471405, 0.565685, 0.424264, 0.235702, 0.942809, 0.942809, 0.235702, 0.424264, 0.565685]
TOKENS, WIDTH, EXPERTS = 6, 4, 2
NODES = [0, 0, 0, 1, 1, 1]


def expression(admit, balance=""):
    return f"grap_cosine > top_k(1) > {admit} > softmax{balance}"


class RouteTest(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.x = cls.dir / "x.safetensors"
        models.write_safetensors(cls.x, {
            "x": models.tensor("F32", [TOKENS, WIDTH], X), "nodes": models.tensor("I64", [TOKENS], NODES),
            "input_ids": models.tensor("I64", [TOKENS], [5, 9, 5, 700, 0, 2]),
            "gate": models.tensor("F32", [EXPERTS, WIDTH], [1, 1, 0, 0, 0, 0, 1, 1])})

    def plan_of(self, router, *more):
        """What --json says, and the tensors that were written, as lists."""
        out = self.dir / "plan.safetensors"
        told = self.json_of("route", "--router", router, "--x", self.x, "--out", out, "--force", *more)
        read = models.read_safetensors(out)
        return told, {name: self.list_of(tensor) for name, tensor in read.items()}

    @staticmethod
    def list_of(tensor):
        dtype, shape, data = tensor
        return memoryview(data).cast({"F32": "f", "I32": "i"}[dtype]).tolist()

    def near(self, got, wanted, within=6e-7):
        self.assertEqual(len(got), len(wanted))
        for g, w in zip(got, wanted):
            self.assertAlmostEqual(g, w, delta=within)


class Golden(RouteTest):
    def plan(self, admit, *more, balance=""):
        return self.plan_of(expression(admit, balance), "--experts", EXPERTS, *more)

    def test_scores_and_proposals(self):
        told, plan = self.plan("all")
        self.assertEqual(set(plan), {"offset", "token", "slot", "weight", "scores"})
        self.near([z / 2 for z in plan["scores"]], COSINES)
        self.assertEqual([plan["offset"], plan["token"], plan["slot"]], [[0, 4, 6], [0, 1, 2, 4, 3, 5], [0] * 6])
        self.near(plan["weight"], [0.880797, 0.615716, 0.570243, 0.804430, 0.804430, 0.570243])
        self.assertEqual(set(told), {"expression", "capacity", "proposed", "kept", "losses"})
        self.assertEqual([told["capacity"], told["proposed"], told["kept"], told["losses"]], [[], 6, 6, {}])
        self.assertTrue(told["expression"].startswith("grap_cosine"))

    def test_admission(self):
        for admit, tokens, weights in (
                ("top_capacity(factor(0.66))", [0, 4, 3, 5], [0.880797, 0.804430, 0.804430, 0.570243]),
                ("fifo(factor(0.66))", [0, 1, 3, 5], [0.880797, 0.615716, 0.804430, 0.570243]),
                ("top_capacity(factor(0.66), bottom)", [1, 2, 3, 5], [0.615716, 0.570243, 0.804430, 0.570243])):
            with self.subTest(admit):
                told, plan = self.plan(admit)
                self.assertEqual([told["capacity"], told["proposed"], told["kept"]], [[2, 2], 6, 4])
                self.assertEqual([plan["offset"], plan["token"], plan["slot"]], [[0, 2, 4], tokens, [0] * 4])
                self.near(plan["weight"], weights)
        for admit in ("top_capacity(factor(1.1))", "fifo(factor(1.1))"):
            told, plan = self.plan(admit)
            self.assertEqual([told["capacity"], plan["offset"]], [[4, 4], [0, 4, 6]])

    def test_in_use_no_token_is_dropped(self):
        for admit in ("top_capacity(factor(0.66))", "fifo(factor(0.66))"):
            told, plan = self.plan(admit, "--decode")
            self.assertEqual([told["kept"], plan["offset"]], [6, [0, 4, 6]])

    def test_a_capacity_settles(self):
        for tau, count in (("0.7", 3), ("0.76", 3), ("0.9", 4)):
            admit = f"top_capacity(etr_sum(tau={tau}, decay=0, lo=0, hi=2))"
            self.assertEqual(self.plan(admit)[0]["capacity"], [6, 6])  # the upper bound, before anything was seen
            self.assertEqual(self.plan(admit, "--settle", 1)[0]["capacity"], [count] * 2)
            self.assertEqual(self.plan(admit, "--settle", 3)[0]["capacity"], [count] * 2)

    def test_settling_trains_what_is_used(self):
        # Expert 0 keeps its 2 best of 4, at 1 and 0.942809; expert 1 has room for both of its own and no floor.
        admit = "top_capacity(factor(0.66), decode=threshold, theta_decay=0)"
        self.assertEqual(self.plan(admit, "--decode")[1]["token"], [0, 1, 2, 4, 3, 5])
        for steps in 1, 3:
            told, plan = self.plan(admit, "--decode", "--settle", steps)
            self.assertEqual([told["capacity"], told["kept"], plan["offset"]], [[], 4, [0, 2, 4]])
            self.assertEqual(plan["token"], [0, 4, 3, 5])

    def test_losses(self):
        losses = lambda balance, *more: self.plan("all", *more, balance=balance)[0]["losses"]
        self.near([losses(" + load(1)")["load"], losses(" + z_loss(1)")["z_loss"] / 4], [1.055168, 3.785147 / 4], 2e-6)
        self.assertEqual(losses(" + locality(1)")["locality"], 0)  # one node
        self.near([losses(" + locality(1)", "--nodes", self.x)["locality"]], [1.433686], 2e-6)
        two = losses(" + load(0.5) + z_loss(0.25)")
        self.near([two["load"], two["z_loss"]], [0.527584, 0.946287], 2e-6)
        told, _ = self.plan("top_capacity(factor(0.66))", balance=" + load(1)")
        self.near([told["losses"]["load"]], [1.055168], 2e-6)  # counts before admission

    def test_a_word_that_stands_twice_is_added_up(self):
        told, _ = self.plan("all", balance=" + load(1) + load(0.5)")
        self.near([told["losses"]["load"]], [1.5 * 1.055168], 3e-6)

    def test_a_gate_of_its_own(self):
        told, plan = self.plan_of("linear > top_k(1) > all > chosen", "--gate", f"{self.x}:gate")
        self.assertEqual(plan["scores"][:4], [2, 0, 3, 2])
        self.assertEqual([plan["token"], plan["weight"]], [[0, 1, 2, 4, 3, 5], [1] * 6])
        self.assertEqual(self.plan_of("linear > top_k(1) > all > chosen", "--gate", self.x)[1], plan)

    def test_hashing_takes_ids(self):
        told, plan = self.plan_of("hash", "--experts", EXPERTS, "--ids", self.x)
        self.assertEqual([told["kept"], sorted(plan["token"])], [6, list(range(6))])
        expert = {t: e for e in range(2) for t in plan["token"][plan["offset"][e]:plan["offset"][e + 1]]}
        self.assertEqual(expert[0], expert[2])  # the same id

    def test_a_colon_in_the_name_of_a_file(self):
        odd = self.dir / "a:x"
        odd.write_bytes(self.x.read_bytes())
        for x in (odd, f"{odd}:x"):
            self.done("route", "--router", expression("all"), "--x", x, "--experts", 2, "--out", self.dir / "odd",
                      "--force")

    def test_numbers_that_are_none_give_a_plan(self):
        spoilt = self.dir / "nan"
        models.write_safetensors(spoilt, {"x": models.tensor("F32", [6, 4], [math.nan, *X[1:12], math.inf, *X[13:]])})
        for router in (expression("all", " + load(1)"), expression("top_capacity(factor(0.66))"),
                       expression("fifo(factor(1.1))"), "grap_cosine > sinkhorn(1) > all > softmax"):
            with self.subTest(router):
                out = self.dir / "nan.plan"
                told = self.json_of("route", "--router", router, "--x", spoilt, "--experts", 2, "--out", out, "--force")
                plan = {name: self.list_of(t) for name, t in models.read_safetensors(out).items()}
                self.assertEqual(plan["offset"][-1], told["kept"])
                self.assertEqual(len(plan["weight"]), told["kept"])
                self.assertTrue(all(0 <= t < 6 for t in plan["token"]))
                self.assertEqual(len(set(zip(plan["token"], plan["slot"]))), told["kept"])

    def test_the_text_says_the_same(self):
        router = expression("fifo(factor(0.66))", " + load(1)")
        shown = self.done("route", "--router", router, "--x", self.x, "--experts", 2, "--out", self.dir / "text",
                          "--force").stdout
        self.assertRegex(shown, r'(?m)^kept +4$')
        self.assertRegex(shown, r'(?m)^losses +\{"load":1\.055')


class Refused(RouteTest):
    def no_route(self, *more, x=None, router=expression("all"), **options):
        self.refused("route", "--router", router, "--x", x or self.x, "--out", self.dir / "new", *more, **options)

    def file_of(self, name, **tensors):
        models.write_safetensors(self.dir / name, tensors)
        return self.dir / name

    def test_the_call(self):
        self.no_route(code=2, says="--experts")
        for router, says in (("grip > top_k(1) > all > softmax", "grip"), ("linear > top_k(1) > all", "score"),
                             ("linear > top_k(0) > all > softmax", "top_k"), ("", "router"),
                             (expression("all", " + luck(1)"), "luck"),
                             (expression("fifo(factor(1.1), way=1)"), "way")):
            with self.subTest(router):
                self.no_route("--experts", 2, router=router, code=2, says=says)
        for more in (["--experts", 0], ["--experts", 5000], ["--settle", -1], ["--experts", "two"]):
            self.no_route(*more, code=2)
        self.no_route("--experts", 5, says="--router")  # more blocks than channels

    def test_gates(self):
        linear = "linear > top_k(1) > all > chosen"
        self.no_route("--experts", 2, router=linear, code=2, says="--gate")
        self.no_route("--gate", self.x, "--gate", self.x, router=linear, code=2, says="1 tensors")
        self.no_route("--experts", 2, "--gate", self.x, code=2, says="leave it out")
        wide = self.file_of("wide", gate=models.tensor("F32", [2, 5], range(10)),
                            deep=models.tensor("F32", [2, 2, 1], range(4)),
                            whole=models.tensor("I64", [2, 4], range(8)))
        self.no_route("--gate", wide, router=linear, says=["[2,5]", "[2,4]"])
        self.no_route("--gate", f"{wide}:deep", router=linear, says="dimensions")
        self.no_route("--gate", f"{wide}:whole", router=linear, says="I64")
        self.no_route("--gate", f"{wide}:none", router=linear, says="none")
        self.no_route("--gate", self.x, "--experts", 3, router=linear, says=["[2,4]", "[3,4]"])

    def test_nodes_and_ids(self):
        for number in (-1, 4096, 200000000, (1 << 31) - 1, 1 << 40):
            with self.subTest(number):
                nodes = self.file_of("nodes", nodes=models.tensor("I64", [6], [0, 0, number, 0, 0, 0]))
                self.no_route("--experts", 2, "--nodes", nodes, says=[str(number), "4095"],
                              router=expression("all", " + locality(1)"))
        few = self.file_of("few", nodes=models.tensor("I64", [5], [0] * 5),
                           input_ids=models.tensor("I32", [6], [0] * 6))
        self.no_route("--experts", 2, "--nodes", few, says="[6]")
        self.no_route("--experts", 2, "--ids", few, router="hash", says="I64")
        self.no_route("--experts", 2, router="hash", code=2, says="ids")

    def test_activations(self):
        self.no_route("--experts", 2, x=self.dir / "nowhere", says="nowhere")
        self.no_route("--experts", 2, x="x" * 5000, says="x")
        self.no_route("--experts", 2, x=self.text, says=str(self.text))
        self.no_route("--experts", 2, x=f"{self.x}:none", says="none")
        self.no_route("--experts", 2, x=f"{self.x}:nodes", says="I64")

    def test_the_output_comes_whole_or_not_at_all(self):
        there = self.dir / "there"
        there.write_text("mine")
        call = ["route", "--router", expression("all"), "--experts", 2]
        self.refused(*call, "--x", self.x, "--out", there, code=2, says=str(there))
        self.refused(*call, "--x", self.x, "--out", self.dir / "no" / "where", code=2, says=str(self.dir / "no"))
        many = self.file_of("many", x=models.tensor("F32", [600, 4], X * 100))
        self.refused(*call, "--x", many, "--out", self.dir / "new", says="new", preexec_fn=small_disk)
        self.refused(*call, "--x", many, "--out", there, "--force", says="there", preexec_fn=small_disk)
        self.assertEqual(there.read_text(), "mine")
        self.done(*call, "--x", self.x, "--out", there, "--force")
        self.assertIn("offset", models.read_safetensors(there))


if __name__ == "__main__":
    unittest.main()
