"""choir convert as scripts see it, and its GGUF files as llama.cpp sees them where that is at hand."""
import json
import os
import pathlib
import random
import shutil
import subprocess
import unittest

from cli_case import CliTest, choir
import cli_models as models

HERE = pathlib.Path(__file__).resolve().parent
ORACLE = HERE.parent.parent / "shared" / "oracle"


def node_llama_cpp():
    """The entry of the package: in a node_modules above the tests or in NODE_PATH. None where it or node is absent."""
    places = [p / "node_modules" for p in HERE.parents] + list(map(pathlib.Path, os.environ.get("NODE_PATH", "").split(":")))
    for place in places:
        entry = place / "node-llama-cpp" / "dist" / "index.js"
        if entry.is_file() and shutil.which("node"):
            return entry
    return None


def top(row, count):
    return sorted(range(len(row)), key=lambda i: -row[i])[:count]


class ConvertTest(CliTest):
    def rows(self, model, ids):
        """Logits of one sequence, a list for each id."""
        source, out = self.dir / "some_ids.safetensors", self.dir / "some_logits.safetensors"
        models.write_safetensors(source, {"input_ids": models.tensor("I64", [1, len(ids)], ids)})
        self.done("forward", model, "--ids", source, "--out", out, "--force")
        logits = models.read_safetensors(out)["logits"]
        numbers, vocab = models.numbers(logits), logits[1][-1]
        return [numbers[i * vocab:(i + 1) * vocab] for i in range(len(ids))]

    def test_there_and_back(self):
        gguf, back = self.dir / "there.gguf", self.dir / "back"
        made = self.json_of("convert", self.model, "--out", gguf)
        self.assertEqual(made["bytes_in"], made["bytes_out"])
        self.assertEqual(made["ignored"], [])
        self.assertLess(made["verified"]["drift"], 1e-4)
        self.json_of("convert", gguf, "--out", back)
        before, after = (models.read_safetensors(d / "model.safetensors") for d in (self.model, back))
        self.assertEqual(before, after)
        ids = [3, 1, 4, 1, 5, 9, 2, 6]
        self.assertEqual(self.rows(self.model, ids), self.rows(gguf, ids))
        self.assertEqual(self.rows(self.model, ids), self.rows(back, ids))

    def test_text_goes_in_and_out_of_a_file(self):
        gguf = self.dir / "words.gguf"
        self.done("convert", self.dir / "trained", "--out", gguf, "--dtype", "f32")
        arguments = ["--prompt", "In year 7", "-n", "12"]
        self.assertEqual(self.json_of("generate", gguf, *arguments)["ids"],
                         self.json_of("generate", self.dir / "trained", *arguments)["ids"])
        self.assertEqual(self.json_of("inspect", gguf)["parameters"],
                         self.json_of("inspect", self.dir / "trained")["parameters"])

    def test_tokens_there_and_back(self):
        """The tokenizer.json travels in the file; what llama.cpp reads instead is made into one that does the same."""
        source, gguf, back, bare = (self.dir / n for n in ["talks", "talks.gguf", "talks_back", "talks_bare"])
        shutil.copytree(self.dir / "trained", source)
        config = {"chat_template": "{{ messages[0].content }}", "eos_token": {"content": "<|endoftext|>"}}
        (source / "tokenizer_config.json").write_text(json.dumps(config))
        self.done("convert", source, "--out", gguf)
        self.done("convert", gguf, "--out", back)
        self.assertEqual((back / "tokenizer.json").read_bytes(), self.tokenizer)
        again = json.loads((back / "tokenizer_config.json").read_text())
        self.assertEqual(again["chat_template"], config["chat_template"])
        self.assertEqual(again["eos_token"], "<|endoftext|>")
        without = gguf.read_bytes().replace(b"tokenizer.huggingface.json", b"tokenizer.huggingface.jsoN")
        (self.dir / "lists.gguf").write_bytes(without)
        self.done("convert", self.dir / "lists.gguf", "--out", bare)
        self.assertNotEqual((bare / "tokenizer.json").read_bytes(), self.tokenizer)
        arguments = ["--prompt", "In year 7<|endoftext|> the old bell", "-n", "5"]
        ids = self.json_of("generate", source, *arguments)
        for model in [gguf, back, self.dir / "lists.gguf", bare]:
            self.assertEqual(self.json_of("generate", model, *arguments)["prompt_ids"], ids["prompt_ids"], model)
            self.assertEqual(self.json_of("generate", model, *arguments)["text"], ids["text"], model)

    def test_a_sentencepiece_model_is_enough(self):
        source, gguf, back = (self.dir / n for n in ["pieces", "pieces.gguf", "pieces_back"])
        models.write_model(source, self.config, self.tensors, None)
        (source / "tokenizer.model").write_bytes(models.sentencepiece(["▁a", "ab", "▁", "a", "b"]))
        self.done("convert", source, "--out", gguf)
        self.done("convert", gguf, "--out", back)
        for model in [source, gguf, back]:
            answer = self.json_of("generate", model, "--prompt", "a ab", "-n", "3")
            self.assertEqual(answer["prompt_ids"], [1, 3, 3, 7], model)
        (source / "tokenizer.model").write_bytes(b"noise")
        self.refused("convert", source, "--out", self.dir / "no.gguf", says="tokenizer.model")

    def test_types(self):
        sizes = {}
        for dtype in ["f32", "bf16", "f16", "q8_0", "q4_0"]:
            config = models.mixtral_config(290, hidden_size=32, intermediate_size=32)
            source = self.dir / f"wide_{dtype}"
            models.write_model(source, config, models.random_tensors(config), None)
            made = self.json_of("convert", source, "--out", self.dir / f"{dtype}.gguf", "--type", dtype)
            sizes[dtype] = made["bytes_out"]
            self.assertLess(made["verified"]["fault"], 1e-3)
        self.assertEqual(sorted(sizes, key=sizes.get), ["q4_0", "q8_0", "bf16", "f16", "f32"])

    def test_a_quantised_model_answers_alike_however_its_weights_lie(self):
        config = models.mixtral_config(290, hidden_size=32, intermediate_size=64)
        source, gguf = self.dir / "blocks", self.dir / "blocks.gguf"
        models.write_model(source, config, models.random_tensors(config), None)
        self.json_of("convert", source, "--out", gguf, "--type", "q8_0")
        ids = ["--ids", "1,2,3,4", "--ignore-end", "--temperature", 1, "--seed", 7]
        short, long = (self.json_of("generate", gguf, *ids, "-n", n)["ids"] for n in [20, 40])  # long ones are packed
        self.assertEqual(short, long[:20])
        self.assertEqual(len(self.json_of("generate", gguf, *ids, "-n", 40, "--exact")["ids"]), 40)

    def test_packed(self):
        """A packed directory answers as the model that is packed when it is loaded, and does all else in rows."""
        source, packed, again, gguf = (self.dir / n for n in ["wide", "packed", "packed_again", "packed.gguf"])
        config = models.mixtral_config(self.config["vocab_size"], hidden_size=32, intermediate_size=64)
        models.write_model(source, config, models.random_tensors(config), self.tokenizer)
        made = self.json_of("convert", source, "--out", packed, "--packed", "--dtype", "q8_0")
        self.assertLess(made["verified"]["fault"], 1e-4)
        self.done("convert", source, "--out", gguf, "--dtype", "q8_0")
        prompt = ["--prompt", "In year 7", "-n", "40", "--ignore-end"]
        for exact in [[], ["--exact"]]:
            self.assertEqual(self.json_of("generate", packed, *prompt, *exact)["ids"],
                             self.json_of("generate", gguf, *prompt, *exact)["ids"])
            ours, theirs = (self.json_of("eval", m, "--text", self.text, *exact) for m in [packed, gguf])
            self.assertEqual(ours["nll"], theirs["nll"])
        self.assertEqual(self.json_of("eval", gguf, "--against", packed, "--text", self.text)["kl_mean"], 0)
        self.assertGreater(self.json_of("bench", packed, "--repeats", 1)["decode_tokens_per_second"], 0)
        self.assertEqual([self.json_of("inspect", m)["packed"] for m in [packed, gguf]], [True, False])
        self.assertIn("packed", self.done("inspect", packed).stdout)
        self.done("doctor", packed)
        ids = [3, 1, 4, 1, 5]
        self.assertEqual(self.rows(packed, ids), self.rows(gguf, ids))
        self.done("convert", packed, "--out", again, "--packed")
        self.assertEqual((again / "model.safetensors").read_bytes(), (packed / "model.safetensors").read_bytes())
        self.refused("prune", packed, "--keep", "2", "--calibrate", self.text, "--out", self.dir / "no", says="is Q8_0")

    def test_packed_numbers_there_and_back(self):
        packed, back, pruned = (self.dir / n for n in ["packed_f32", "packed_back", "packed_pruned"])
        self.json_of("convert", self.model, "--out", packed, "--packed")
        self.json_of("convert", packed, "--out", back)
        before, after = (models.read_safetensors(d / "model.safetensors") for d in (self.model, back))
        self.assertEqual(before, after)
        self.assertEqual((packed / "tokenizer.json").read_bytes(), self.tokenizer)
        for source, out in [(packed, pruned), (self.model, self.dir / "plain_pruned")]:
            self.done("prune", source, "--keep", "2", "--ids", self.ids, "--out", out)
        self.assertEqual((pruned / "model.safetensors").read_bytes(),
                         (self.dir / "plain_pruned" / "model.safetensors").read_bytes())

    def test_what_cannot_be_packed_is_refused(self):
        for more in [["--out", self.dir / "no.gguf"], ["--out", self.dir / "no", "--to", "gguf"]]:
            self.refused("convert", self.model, "--packed", *more, code=2, says="a GGUF file cannot be packed")
        packed = self.dir / "packed_old"
        self.done("convert", self.model, "--out", packed, "--packed")
        weights = packed / "model.safetensors"
        data = weights.read_bytes()
        for old, new, says in [(b'"choir.panels":"1"', b'"choir.panels":"7"', "another version than 1"),
                               (b"F32 panels [", b"F16 panels [", "bytes"), (b" panels [", b" stripes[", "described")]:
            weights.write_bytes(data.replace(old, new))
            for verb in [["generate", "--ids", "1", "-n", "1"], ["inspect"], ["convert", "--out", self.dir / "no"]]:
                self.refused(verb[0], packed, *verb[1:], says=says)
        weights.write_bytes(data[:-5])
        self.refused("inspect", packed, says="model.safetensors")

    def test_a_model_in_blocks_is_refused_by_who_writes_safetensors(self):
        config = models.mixtral_config(290, hidden_size=32, intermediate_size=32)
        source, gguf, out = self.dir / "in_blocks", self.dir / "in_blocks.gguf", self.dir / "in_blocks_out"
        models.write_model(source, config, models.random_tensors(config), None)
        self.done("convert", source, "--out", gguf, "--dtype", "q8_0")
        calibration = self.dir / "none.safetensors"  # nothing is calibrated before the refusal
        for verb in [["prune", "--keep", "4"], ["skip"], ["fit", "--budget", "0.5"]]:
            self.refused(verb[0], gguf, *verb[1:], "--out", out, "--ids", calibration, says="is Q8_0, which safetensors")
        self.assertFalse(out.exists())

    def test_losses_of_training_keep_no_model_from_llama_cpp(self):
        for router, fits in (("linear > top_k(2) > all > chosen + load(0.01)", True),
                             ("linear > top_k(2) > all > softmax", False)):
            with self.subTest(router):
                config = models.mixtral_config(290, choir={"router": router})
                source, out = self.dir / f"routed_{len(router)}", self.dir / f"routed_{len(router)}.gguf"
                models.write_model(source, config, models.random_tensors(config), None)
                if fits:
                    self.json_of("convert", source, "--out", out)
                    self.assertEqual(self.rows(source, [3, 1, 4, 1, 5]), self.rows(out, [3, 1, 4, 1, 5]))
                else:
                    self.refused("convert", source, "--out", out, code=2, says="a router of its own")

    def test_rows_that_are_no_blocks_are_said(self):
        made = self.json_of("convert", self.model, "--out", self.dir / "short.gguf", "--dtype", "q8_0")
        self.assertTrue(any("not whole blocks of Q8_0 and are F16" in note for note in made["notes"]), made)

    def test_a_tensor_that_is_not_needed_is_accounted_for(self):
        source = self.broken_model(tensors=self.tensors | {
            "model.layers.0.self_attn.rotary_emb.inv_freq": models.tensor("F32", [4], [1, 2, 3, 4])})
        made = self.json_of("convert", source, "--out", self.dir / "ignoring.gguf")
        self.assertEqual(len(made["ignored"]), 1)
        self.assertIn("rotary_emb.inv_freq: rotary frequencies", made["ignored"][0])

    def test_refusals(self):
        out = self.dir / "no.gguf"
        self.refused("convert", self.model, "--out", self.dir / "no", "--dtype", "q4_0", code=2, says="safetensors")
        self.refused("convert", self.model, "--out", self.dir / "absent" / "no.gguf", code=2, says="does not exist")
        self.refused("convert", self.dir / "absent", "--out", out, says="absent")
        pruned = self.broken_model(config=self.config | {"choir": {"num_local_experts": [8, 7]}})
        self.refused("convert", pruned, "--out", out, code=2, says="one number for all")
        (self.dir / "noise.gguf").write_bytes(random.Random(3).randbytes(1000))
        self.refused("inspect", self.dir / "noise.gguf", says="does not begin with GGUF")
        self.refused("convert", self.dir / "noise.gguf", "--out", out, says="does not begin with GGUF")
        self.done("convert", self.model, "--out", self.dir / "there_already.gguf")
        self.refused("convert", self.model, "--out", self.dir / "there_already.gguf", code=2, says="--force")
        whole = (self.dir / "there_already.gguf").read_bytes()
        (self.dir / "cut.gguf").write_bytes(whole[:-100])
        self.refused("forward", self.dir / "cut.gguf", "--ids", self.ids, "--out", self.dir / "no.safetensors",
                     says="reach beyond the file")

    def compare_with_llama_cpp(self, entry, source, dtype, ids, within):
        """The successors that llama.cpp finds for each id: their order, and the logits of all."""
        gguf = self.dir / "for_llama_cpp.gguf"
        self.done("convert", source, "--out", gguf, "--force", "--dtype", dtype)
        ours = self.rows(gguf, ids)
        run = subprocess.run(["node", HERE / "llama_cpp.mjs", entry, gguf, ",".join(map(str, ids))], capture_output=True,
                             encoding="utf-8", timeout=300)
        self.assertEqual(run.returncode, 0, run.stderr)
        theirs = json.loads(run.stdout.splitlines()[-1])
        self.assertEqual(len(theirs), len(ids))
        scale = max(abs(x) for row in ours for x in row)
        for mine, other in zip(ours, theirs):
            self.assertEqual(len(mine), len(other))
            worst = max(abs(a - b) for a, b in zip(mine, other))
            self.assertLess(worst, within * scale, source)
            best = top(mine, 2)
            if mine[best[0]] - mine[best[1]] > 2 * within * scale:
                self.assertEqual(top(other, 1), best[:1], source)

    def test_llama_cpp_answers_alike(self):
        """Its cache holds halves, so that even floats agree to three digits alone."""
        entry = node_llama_cpp()
        if not entry:
            self.skipTest("node-llama-cpp absent")
        ids = [5, 17, 100, 3, 42, 8, 8, 200, 31, 64, 77, 11]
        self.compare_with_llama_cpp(entry, self.model, "f32", ids, 0.01)
        pruned = self.dir / "pruned_for_llama_cpp"
        self.done("prune", self.model, "--out", pruned, "--keep", "5", "--ids", self.ids)
        self.compare_with_llama_cpp(entry, pruned, "f32", ids, 0.01)
        for name in ["mixtral_1", "qwen2_moe_1", "olmoe_1", "qwen3_moe_1", "deepseek_v3_1"]:
            if not (ORACLE / name).is_dir():
                self.skipTest("oracle absent: the first two were compared")
            source = self.dir / name  # the package asks every model for tokens
            shutil.copytree(ORACLE / name, source)
            (source / "tokenizer.json").write_bytes(self.tokenizer)
            self.compare_with_llama_cpp(entry, source, "f32", ids, 0.01)


if __name__ == "__main__":
    unittest.main()
