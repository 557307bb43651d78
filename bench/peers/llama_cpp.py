"""Speed of llama.cpp through its library: llama_cpp.py FOLDER MODEL.gguf PREFILL DECODE THREADS

FOLDER holds libllama and libggml, such as node_modules/@node-llama-cpp/linux-x64/bins/linux-x64 of the npm package
node-llama-cpp. Does what llama-bench does: random tokens; the prompt in one call, after the same once to warm up; then,
from an empty context, one token after another, which are known beforehand, so that nothing is sampled. Prints
{"prefill", "decode"} in tokens a second.
"""
import ctypes
import json
import pathlib
import random
import sys
import time


class Opaque(ctypes.Structure):
    """Parameters, passed by value as the library made them; larger than any version's."""
    _fields_ = [("bytes", ctypes.c_ubyte * 512)]


class Batch(ctypes.Structure):
    _fields_ = [("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)),
                *((name, ctypes.c_void_p) for name in ("embd", "pos", "n_seq_id", "seq_id", "logits"))]


def load_library(folder):
    patterns = ("libggml-base*.so*", "libggml.*so*", "libllama.*so*")
    names = [next(iter(sorted(folder.glob(pattern))), None) for pattern in patterns]
    if None in names:
        sys.exit(f"llama_cpp.py: {folder}: no libllama and libggml there")
    _, ggml, llama = (ctypes.CDLL(str(name), mode=ctypes.RTLD_GLOBAL) for name in names)
    handle, count = ctypes.c_void_p, ctypes.c_int32
    for name, result, *arguments in (
            ("llama_model_default_params", Opaque), ("llama_context_default_params", Opaque),
            ("llama_model_load_from_file", handle, ctypes.c_char_p, Opaque),
            ("llama_init_from_model", handle, handle, Opaque), ("llama_n_ctx", ctypes.c_uint32, handle),
            ("llama_set_n_threads", None, handle, count, count), ("llama_get_memory", handle, handle),
            ("llama_memory_clear", None, handle, ctypes.c_bool), ("llama_model_get_vocab", handle, handle),
            ("llama_vocab_n_tokens", count, handle), ("llama_synchronize", None, handle),
            ("llama_batch_get_one", Batch, ctypes.POINTER(count), count), ("llama_decode", count, handle, Batch)):
        function = getattr(llama, name)
        function.restype, function.argtypes = result, arguments
    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama.llama_log_set(silent, None)
    llama.silent = silent  # lives as long as the library
    ggml.ggml_backend_load_all_from_path(ctypes.c_char_p(str(folder).encode()))
    return llama


class Context:
    def __init__(self, llama, path, length, threads):
        self.llama, self.rng = llama, random.Random(1)
        model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
        if not model:
            sys.exit(f"llama_cpp.py: {path}: llama.cpp refuses it")
        parameters = llama.llama_context_default_params()
        ctypes.c_uint32.from_buffer(parameters).value = length  # n_ctx, the first
        self.context = llama.llama_init_from_model(model, parameters)
        if not self.context or llama.llama_n_ctx(self.context) < length:
            sys.exit(f"llama_cpp.py: {path}: no context of {length} tokens")
        llama.llama_set_n_threads(self.context, threads, threads)
        self.vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))

    def seconds(self, calls, tokens):
        """Of so many calls with so many random tokens each, from an empty context."""
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), True)
        ids = [(ctypes.c_int32 * tokens)(*self.rng.choices(range(self.vocab), k=tokens)) for _ in range(calls)]
        begin = time.perf_counter()
        for piece in ids:
            if self.llama.llama_decode(self.context, self.llama.llama_batch_get_one(piece, tokens)) != 0:
                sys.exit("llama_cpp.py: llama_decode failed")
        self.llama.llama_synchronize(self.context)
        return time.perf_counter() - begin


def main():
    folder, path = pathlib.Path(sys.argv[1]), sys.argv[2]
    prefill, decode, threads = (int(word) for word in sys.argv[3:6])
    context = Context(load_library(folder), path, max(prefill, decode), threads)
    context.seconds(1, prefill)
    speeds = {"prefill": prefill / context.seconds(1, prefill)}
    context.seconds(1, 1)
    print(json.dumps({**speeds, "decode": decode / context.seconds(decode, 1)}))


if __name__ == "__main__":
    sys.exit(main())
