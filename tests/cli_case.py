"""What the tests of the command line share: CHOIR is the program, the first argument of a test."""
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
VERBS = ["inspect", "forward", "generate", "bench", "eval", "prune", "fit", "merge-captures", "skip", "convert", "train",
         "route", "report", "doctor"]
TEXT = "".join(f"In year {n} the {a} {b} of the {c} was {n * 7 % 11}.\n"
               for n, (a, b, c) in enumerate(itertools.product(["old", "new", "red"], ["bell", "gate", "song", "wall"],
                                                               ["town", "river", "choir"])))


def choir(*arguments, **options):
    """One thread, unless asked otherwise: the models are too small for more."""
    threads = ["--threads", "1"] if arguments and arguments[0] in VERBS and "--threads" not in arguments else []
    return subprocess.run([CHOIR, *map(str, arguments), *threads], capture_output=True, encoding="utf-8",
                          errors="replace", stdin=subprocess.DEVNULL, timeout=120, **options)


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
        made = choir("train", "--config", cls.dir / "train.json", "--out", cls.dir / "trained")
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
