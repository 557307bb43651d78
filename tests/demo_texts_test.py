"""The demonstration's texts: word problems are right, and no piece both calibrates and measures."""
import pathlib
import re
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import demo_texts


class DemoTexts(unittest.TestCase):
    def test_every_step_of_a_problem_is_right_and_the_last_is_the_answer(self):
        problems = demo_texts.word_problems(seed=7, characters=200_000)
        for problem in problems:
            question, answer = re.fullmatch(r"Question: (.*\?)\nAnswer: (.*)\n", problem, re.S).groups()
            steps = re.findall(r"(\d+) ([-+*/]) (\d+) = (-?\d+)", answer)
            self.assertEqual(len(steps), answer.count("\n"), problem)
            for a, sign, b, result in steps:
                right = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b), "/": int(a) / int(b)}[sign]
                self.assertEqual(right, int(result), problem)
                self.assertGreater(int(result), 0, problem)
            self.assertEqual(answer.splitlines()[-1], f"#### {steps[-1][3]}")
            known = set(re.findall(r"\d+", question)) | {step[3] for step in steps} | {"2"}  # 2: "half"
            self.assertLessEqual({n for a, _, b, _ in steps for n in (a, b)}, known, problem)
            self.assertNotRegex(problem, r"[{}]")

    def test_problems_follow_from_their_seed(self):
        self.assertEqual(demo_texts.word_problems(3, 5000), demo_texts.word_problems(3, 5000))
        self.assertNotEqual(demo_texts.word_problems(3, 5000), demo_texts.word_problems(4, 5000))

    def test_parts_are_disjoint_and_large_enough(self):
        for kind, (calibrating, measuring) in demo_texts.all_texts(ROOT).items():
            with self.subTest(kind):
                self.assertFalse(set(calibrating) & set(measuring))
                self.assertGreater(sum(map(len, calibrating)), 20_000)
                self.assertGreater(sum(map(len, measuring)), 8_000)


if __name__ == "__main__":
    unittest.main()
