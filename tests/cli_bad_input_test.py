"""Bad models, texts, ids and questions: one line, the right status, nothing left behind. cli_bad_input_test.py CHOIR"""
import math
import unittest

import cli_models as models
from cli_case import TEXT, CliTest, nobody


class BadModels(CliTest):
    def no_verb_takes(self, model, says, verbs=("inspect", "forward", "generate", "prune")):
        calls = {"inspect": [], "forward": ["--ids", self.ids, "--out", self.dir / "new"],
                 "generate": ["--ids", "1,2,3", "-n", 3],
                 "prune": ["--ids", self.ids, "--keep", 4, "--out", self.dir / "new"],
                 "skip": ["--ids", self.ids, "--out", self.dir / "new"], "eval": ["--text", self.text]}
        for verb in verbs:
            with self.subTest(verb):
                self.refused(verb, model, *calls[verb], says=says)

    def test_damaged_weight_files(self):
        whole = models.safetensors_bytes(self.tensors)
        overlapping = models.header_of(self.tensors)
        first, second = list(overlapping.values())[:2]
        shift = first["data_offsets"][1] - 8
        second["data_offsets"] = [shift, shift + second["data_offsets"][1] - second["data_offsets"][0]]
        for name, weights in {"empty": b"", "cut in the header": whole[:100], "cut in the data": whole[:-10],
                              "longer": whole + b"more", "absurd header length": b"\xff" * 7 + b"\x7f" + whole[8:],
                              "no header": (5).to_bytes(8, "little") + b"hello", "text": TEXT.encode(),
                              "overlapping": models.safetensors_bytes(self.tensors, overlapping)}.items():
            with self.subTest(name):
                self.no_verb_takes(self.broken_model(weights=weights), "model.safetensors")
        self.no_verb_takes(self.broken_model(weights=None), "model.safetensors")
        model = self.broken_model(weights=None)
        (model / "model.safetensors").mkdir()
        self.no_verb_takes(model, "model.safetensors")

    def test_tensors_that_do_not_fit(self):
        gate = "model.layers.1.block_sparse_moe.gate.weight"
        dtype, shape, data = self.tensors[gate]
        missing = {name: t for name, t in self.tensors.items() if name != gate}
        for name, tensors in {"mis-shaped": self.tensors | {gate: (dtype, shape[::-1], data)},
                              "flat": self.tensors | {gate: (dtype, [len(data) // 4], data)}, "missing": missing,
                              "integers": self.tensors | {gate: ("I32", shape, data)},
                              "doubles": self.tensors | {gate: ("F64", shape, data * 2)}}.items():
            with self.subTest(name):
                self.no_verb_takes(self.broken_model(tensors=tensors), gate)
        extra = self.tensors | {"model.surprise": models.tensor("F32", [1], [1])}
        self.no_verb_takes(self.broken_model(tensors=extra), "model.surprise")

    def test_numbers_that_are_none(self):
        at = "model.layers.1."
        for name in ("model.embed_tokens.weight", at + "self_attn.q_proj.weight", at + "input_layernorm.weight",
                     at + "block_sparse_moe.gate.weight", "model.norm.weight", "lm_head.weight"):
            for value in (math.nan, math.inf):
                broken = self.broken_model(tensors=self.tensors | {name: models.filled(self.tensors[name], value)})
                with self.subTest(f"{name} {value}"):
                    self.no_verb_takes(broken, name, verbs=["forward", "generate", "eval", "prune", "skip"])

    def test_configs_that_are_none(self):
        for config in (None, b"", b"{", b"[]", b"hello", b"\xff\xfe", b"{}" + b"x", b"[" * 100000,
                       b'{"hidden_size": 1, "hidden_size": 2}'):
            with self.subTest(config and config[:20]):
                self.no_verb_takes(self.broken_model(config=config), "config.json", verbs=["inspect", "prune"])
        model = self.broken_model(config=None)
        (model / "config.json").mkdir()
        self.no_verb_takes(model, "config.json")
        self.no_verb_takes(self.dir / "nowhere", "nowhere")
        self.no_verb_takes(self.text, str(self.text))

    def test_absurd_values_in_a_config(self):
        counts = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                  "num_key_value_heads", "num_local_experts", "num_experts_per_tok", "max_position_embeddings",
                  "vocab_size")
        cases = [(key, value) for key in counts for value in (0, -1, 10**10, 10**30, "2", 2.5, True, [2], math.nan)]
        cases += [(key, value) for key in ("rms_norm_eps", "rope_theta", "router_aux_loss_coef")
                  for value in (-1, "1", math.nan, math.inf, [])]
        cases += [("num_attention_heads", 3), ("num_key_value_heads", 3), ("num_experts_per_tok", 9),
                  ("model_type", "gpt5"), ("model_type", 1), ("hidden_act", "gelu"), ("tie_word_embeddings", "yes"),
                  ("betas", {"0": "x"}), ("betas", [1, 2]), ("choir", {"num_local_experts": [8]}),
                  ("choir", {"num_local_experts": [8, 0]}), ("choir", {"num_experts_per_tok": [2, 9]}),
                  ("choir", {"kept_experts": [[0], [1]]}), ("rope_scaling", {"type": "spiral", "factor": 4.0}),
                  ("rope_scaling", {"type": "yarn", "factor": 0})]
        for key, value in cases:
            with self.subTest(f"{key} {value}"):
                self.no_verb_takes(self.broken_model(config=self.config | {key: value}), "config", verbs=["inspect"])
        for key in ("model_type", "hidden_size", "vocab_size", "num_hidden_layers", "intermediate_size"):
            without = {k: v for k, v in self.config.items() if k != key}
            self.no_verb_takes(self.broken_model(config=without), ["config.json", key])

    def test_configs_of_another_model(self):
        for key, value in {"hidden_size": 1024, "num_hidden_layers": 4096, "num_local_experts": 4096,
                           "vocab_size": 1 << 24, "intermediate_size": 262144}.items():
            with self.subTest(key):
                self.no_verb_takes(self.broken_model(config=self.config | {key: value}), "tensor")

    def test_tokenizers(self):
        questions = self.dir / "good.jsonl"
        questions.write_text('{"context": "the", "choices": [" old"], "gold": 0}\n')
        for tokenizer in (None, b"", b"{", b"[]", b"{}", self.tokenizer[:-50]):
            broken = self.broken_model(tokenizer=tokenizer)
            for call in (["generate", broken, "--prompt", "the"], ["eval", broken, "--text", self.text],
                         ["eval", broken, "--choices", questions],
                         ["prune", broken, "--keep", 4, "--calibrate", self.text, "--out", self.dir / "new"],
                         ["skip", broken, "--calibrate", self.text, "--out", self.dir / "new"]):
                with self.subTest(f"{tokenizer and tokenizer[:5]} {call[0]}"):
                    self.refused(*call, says="tokenizer.json")


class BadInputs(CliTest):
    def test_texts(self):
        (self.dir / "empty").write_bytes(b"")
        (self.dir / "nul").write_bytes(TEXT.encode() + b"\0" + TEXT.encode())
        (self.dir / "latin").write_bytes(TEXT.encode() + "müde".encode("latin-1") + TEXT.encode())
        (self.dir / "folder").mkdir(exist_ok=True)
        secret = self.dir / "secret"
        secret.write_text(TEXT)
        secret.chmod(0)
        for name in ("empty", "nul", "latin", "folder", "absent", "secret"):
            path = self.dir / name
            for call in (["prune", self.model, "--keep", 4, "--out", self.dir / "new", "--calibrate"],
                         ["skip", self.model, "--out", self.dir / "new", "--calibrate"],
                         ["eval", self.model, "--text"]):
                with self.subTest(f"{name} {call[0]}"):
                    self.refused(*call, path, says=str(path), preexec_fn=nobody if name == "secret" else None)

    def test_texts_too_short(self):
        short = self.dir / "short"
        short.write_text("A word.")
        for verb in (["prune", "--keep", 4], ["skip"]):
            start = [verb[0], self.model, *verb[1:], "--out", self.dir / "new", "--calibrate"]
            self.refused(*start, short, says="too few tokens")
            self.refused(*start, self.text, "--sequences", 1000000, says="too few tokens")

    def test_ids(self):
        vocab = self.config["vocab_size"]
        files = {"large": models.tensor("I64", [1, 2], [0, vocab]), "negative": models.tensor("I64", [1, 2], [0, -1]),
                 "huge": models.tensor("I64", [1, 2], [0, 1 << 40]), "float": models.tensor("F32", [1, 2], [0, 1]),
                 "none": models.tensor("I64", [0, 2], []), "scalar": models.tensor("I64", [], [1]),
                 "flat": models.tensor("I64", [2], [0, 1]), "deep": models.tensor("I64", [1, 1, 1, 2], [0, 1]),
                 "long": models.tensor("I64", [1, 65], range(65))}
        for name, tensor in files.items():
            models.write_safetensors(self.dir / name, {"input_ids": tensor})
        (self.dir / "torn").write_bytes(self.ids.read_bytes()[:-3])
        (self.dir / "folder").mkdir(exist_ok=True)
        for name in [*files, "torn", "folder", "absent", "ids.safetensors:absent", "ids.safetensors:"]:
            ids = self.dir / name
            for call in (["forward", self.model], ["prune", self.model, "--keep", 4], ["skip", self.model]):
                with self.subTest(f"{name} {call[0]}"):
                    says = {"large": str(vocab), "long": "64"}.get(name, name.split(":")[0])
                    self.refused(*call, "--ids", ids, "--out", self.dir / "new", says=says)
        self.refused("forward", self.model, "--ids", f"{self.ids}:batches", "--out", self.dir / "new", says="[B,T]")

    def test_prompts(self):
        for ids in (self.config["vocab_size"], -1):
            self.refused("generate", self.model, f"--ids={ids}", says=str(ids))
        self.refused("generate", self.model, "--ids=99999999999", code=2)
        self.refused("generate", self.model, "--prompt", TEXT, says="64")
        filled = self.json_of("generate", self.model, "--prompt", "a", "-n", 1000, "--ignore-end")
        self.assertLessEqual(len(filled["ids"]), 64)

    def test_choices(self):
        good = '{"context": "the", "choices": [" old", " new"], "gold": 0}\n'
        path = self.dir / "choices.jsonl"
        for bad in ("{", "[]", '{"context": "a", "choices": [" b"]}', '{"choices": [" b"], "gold": 0}',
                    '{"context": "a", "choices": [], "gold": 0}', '{"context": "a", "choices": [" b"], "gold": 1}',
                    '{"context": "a", "choices": [" b"], "gold": -1}', '{"context": "a", "choices": [1], "gold": 0}',
                    '{"context": 1, "choices": [" b"], "gold": 0}', '{"context": "a", "choices": " b", "gold": 0}'):
            with self.subTest(bad):
                path.write_text(good + bad + "\n" + good)
                self.refused("eval", self.model, "--choices", path, says=f"{path}:2")
        path.write_text("")
        self.refused("eval", self.model, "--choices", path, says=str(path))

    def test_models_of_different_vocabularies_are_not_compared(self):
        config = self.config | {"vocab_size": 20}
        other = self.dir / "other"
        models.write_model(other, config, models.random_tensors(config))
        self.refused("eval", self.model, "--against", other, "--text", self.text, says="vocab")


if __name__ == "__main__":
    unittest.main()
