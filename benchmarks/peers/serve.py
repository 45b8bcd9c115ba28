"""Serves random Llamas with `orpo-serve`, llama.cpp's server and transformers, and prints a table of medians.

    cargo build --release
    venv/bin/pip install torch transformers gguf cmake ninja
    venv/bin/pip download --no-deps --no-binary :all: llama-cpp-python     # in it: the source of llama.cpp's server
    cmake -S vendor/llama.cpp -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DLLAMA_USE_PREBUILT_UI=OFF
    ninja -C build llama-server llama-quantize
    venv/bin/python benchmarks/peers/serve.py --ours target/release/orpo-serve --llama-server build/bin/llama-server

All have the same random weights, prompts of token ids and number of threads, and choose greedily without an end token.
Every round starts each program anew, one after another, so that a disturbance of the machine meets all of them; ratios
are what to look at. `start` is the time until the server is ready, `first` that to the first token of a reply to 128
tokens, `decode` the tokens a second of that reply's 64, `prefill` the tokens a second of a prompt of 512. `in turn` and
`at once` are the generated tokens a second of eight requests of different lengths, sent one after another and together;
`long` those of eight prompts of 32 with replies of 128. `shared` is the time to the first token of a request whose first 512
tokens an earlier request had, over that of the earlier one. transformers has no server here: it is called directly, its
`at once` is a padded batch, and it has no `shared`.
"""

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))
import random_llama  # noqa: E402

MODEL = "bench"
PROMPT, REPLY, LONG_PROMPT = 128, 64, 512
# Tokens of the prompt and of the reply.
MIXED = [(16, 64), (32, 32), (64, 48), (96, 16), (128, 40), (192, 24), (256, 32), (384, 16)]
LONG_REPLIES = [(32, 128)] * 8
COLUMNS = ["start", "first", "decode", "prefill", "in turn", "at once", "long", "shared", "memory"]


def prompt(random, length):
    return [random.randrange(300, 400) for _ in range(length)]


class Server:
    """A program that answers over HTTP."""

    def __init__(self, command, env, port, ready, body, tokens_of):
        self.address, self.body, self.tokens_of = f"127.0.0.1:{port}", body, tokens_of
        start = time.perf_counter()
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        while not self.is_ready(ready):
            if self.process.poll() is not None or time.perf_counter() - start > 120:
                sys.exit(f"error: {command[0]} does not start; run it by hand to see why: {' '.join(command)}")
            time.sleep(0.01)
        self.start_seconds = time.perf_counter() - start

    def is_ready(self, path):
        connection = http.client.HTTPConnection(self.address, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def generate(self, ids, tokens, known=False):
        """Seconds from the request to each token; the server may know the beginning of the prompt if it is `known`."""
        connection = http.client.HTTPConnection(self.address, timeout=300)
        start = time.perf_counter()
        path, body = self.body(ids, tokens, known)
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            sys.exit(f"error: {path}: {answer.status} {answer.read()}")
        times = []
        for line in answer:
            if line.startswith(b"data: {"):
                times += [time.perf_counter() - start] * self.tokens_of(json.loads(line[6:]))
        connection.close()
        if len(times) < tokens:
            sys.exit(f"error: {len(times)} tokens came of {tokens}")
        return times

    def together(self, requests):
        with ThreadPoolExecutor(len(requests)) as clients:
            list(clients.map(lambda request: self.generate(*request), requests))

    def memory(self):
        return peak_memory(self.process.pid)

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=60)


class Transformers:
    """The model in this process' own child, asked line by line."""

    def __init__(self, directory, env):
        start = time.perf_counter()
        self.process = subprocess.Popen([sys.executable, __file__, "--worker", directory], env=env, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.process.stdout.readline()
        self.start_seconds = time.perf_counter() - start

    def ask(self, requests):
        self.process.stdin.write(json.dumps(requests) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def generate(self, ids, tokens, known=False):
        return self.ask([[ids, tokens]])

    def together(self, requests):
        self.ask(requests)

    def memory(self):
        return peak_memory(self.process.pid)

    def stop(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)


def worker(directory):
    """Generates for each line of requests, and answers with the times of the tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model.generation_config.eos_token_id = None

    class Clock:
        def put(self, value):
            times.append(time.perf_counter() - start)

        def end(self):
            pass

    print("ready", flush=True)
    for line in sys.stdin:
        requests = json.loads(line)
        start, times = time.perf_counter(), []
        longest = max(len(ids) for ids, _ in requests)
        rows = torch.tensor([[0] * (longest - len(ids)) + ids for ids, _ in requests])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in requests])
        tokens = max(tokens for _, tokens in requests)
        # The streamer is given the prompt, too, and takes no batches.
        streamer = Clock() if len(requests) == 1 else None
        model.generate(rows, attention_mask=mask, max_new_tokens=tokens, do_sample=False, pad_token_id=0,
                       streamer=streamer)
        print(json.dumps(times[1:]), flush=True)


def peak_memory(pid):
    """The largest resident memory so far, in MB."""
    lines = open(f"/proc/{pid}/status", encoding="ascii").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6


def write_gguf(directory, shape, file, kind):
    """The checkpoint as llama.cpp's converter writes it."""
    import gguf
    import numpy

    writer = gguf.GGUFWriter(file, "llama")
    heads, key_value_heads = shape["num_attention_heads"], shape["num_key_value_heads"]
    writer.add_context_length(random_llama.POSITIONS)
    writer.add_embedding_length(shape["hidden_size"])
    writer.add_block_count(shape["num_hidden_layers"])
    writer.add_feed_forward_length(shape["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_value_heads)
    writer.add_rope_dimension_count(shape["hidden_size"] // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape["vocab_size"])
    tokens = random_llama.tokens(shape["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(tokens) - 1) + [gguf.TokenType.CONTROL])
    # The reader wants at least one.
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_eos_token_id(len(tokens) - 1)

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, shape["num_hidden_layers"])
    kind = gguf.GGMLQuantizationType[kind]
    with open(Path(directory) / "model.safetensors", "rb") as weights:
        weights.seek(int.from_bytes(weights.read(8), "little") + 8)
        for name, size in random_llama.tensors(shape):
            halves = numpy.frombuffer(weights.read(2 * numpy.prod(size, dtype=int)), dtype=numpy.uint16)
            values = (halves.astype(numpy.uint32) << 16).view(numpy.float32).reshape(size)
            for part, count in (("q_proj", heads), ("k_proj", key_value_heads)):
                if part in name:
                    # llama.cpp turns neighbouring pairs where Hugging Face turns halves.
                    values = values.reshape(count, 2, -1, size[1]).swapaxes(1, 2).reshape(size)
            row_type = kind if len(size) == 2 else gguf.GGMLQuantizationType.F32
            name = names.get_name(name, try_suffixes=(".weight",))
            writer.add_tensor(name, gguf.quants.quantize(values, row_type), raw_dtype=row_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def measure(program, random):
    """One round of one program, by column."""
    program.generate(prompt(random, 16), 4)
    times = program.generate(prompt(random, PROMPT), REPLY)
    long = program.generate(prompt(random, LONG_PROMPT), 1)
    generated = sum(tokens for _, tokens in MIXED)
    start = time.perf_counter()
    for length, tokens in MIXED:
        program.generate(prompt(random, length), tokens)
    in_turn = time.perf_counter() - start
    start = time.perf_counter()
    program.together([(prompt(random, length), tokens) for length, tokens in MIXED])
    at_once = time.perf_counter() - start
    start = time.perf_counter()
    program.together([(prompt(random, length), tokens) for length, tokens in LONG_REPLIES])
    long_replies = sum(tokens for _, tokens in LONG_REPLIES) / (time.perf_counter() - start)
    shared = prompt(random, LONG_PROMPT)
    first = program.generate(shared + prompt(random, 8), 1, True)[0]
    later = [program.generate(shared + prompt(random, 8), 1, True)[0] for _ in range(3)]
    values = [program.start_seconds * 1000, times[0] * 1000, (REPLY - 1) / (times[REPLY - 1] - times[0]),
              LONG_PROMPT / long[0], generated / in_turn, generated / at_once, long_replies,
              statistics.median(later) / first, program.memory()]
    return dict(zip(COLUMNS, values))


def programs(args, directory, size, env):
    """What is to be measured with one model: names, and how to start each."""
    shape = random_llama.SHAPES[size]
    model = str(Path(directory) / size)
    random_llama.write(model, shape)
    random_llama.write(f"{model}-f32", shape, f32=True)
    endless = {str(shape["vocab_size"] - 1): -100}

    def ours(*extra, model=model):
        port = free_port()
        command = [args.ours, "--model", model, "--served-model-name", MODEL, "--port", str(port), *extra]
        body = lambda ids, tokens, known: ("/v1/completions", {
            "model": MODEL, "prompt": ids, "max_tokens": tokens, "stream": True, "temperature": 0, "logprobs": 0,
            "logit_bias": endless})
        tokens_of = lambda event: len((event["choices"][0]["logprobs"] or {}).get("tokens", []))
        return Server(command, env, port, "/ready", body, tokens_of)

    def llama_cpp(file):
        port = free_port()
        command = [args.llama_server, "-m", file, "--port", str(port), "-t", str(args.threads), "-np", "8",
                   "-c", str(8 * random_llama.POSITIONS)]
        body = lambda ids, tokens, known: ("/completion", {
            "prompt": ids, "n_predict": tokens, "stream": True, "temperature": 0, "ignore_eos": True,
            "cache_prompt": known, "return_tokens": True})
        return Server(command, env, port, "/health", body, lambda event: len(event["tokens"]))

    started = {
        "f32, orpo-serve": lambda: ours(model=f"{model}-f32"),
        "bf16, orpo-serve": ours,
        "Q8_0, orpo-serve": lambda: ours("--quantize", "q8_0"),
        "Q4_K, orpo-serve": lambda: ours("--quantize", "q4k"),
    }
    if args.mistralrs:
        started["f32, mistralrs"] = lambda: ours("--engine", "mistralrs")
    if args.llama_server:
        for name in ("F32", "BF16", "Q8_0"):
            file = f"{model}-{name}.gguf"
            write_gguf(model, shape, file, name)
            started[f"{name.replace('F', 'f').replace('B', 'b')}, llama.cpp"] = lambda file=file: llama_cpp(file)
        quantize = Path(args.llama_server).with_name("llama-quantize")
        subprocess.run([quantize, "--pure", f"{model}-F32.gguf", f"{model}-Q4_K.gguf", "Q4_K"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started["Q4_K, llama.cpp"] = lambda: llama_cpp(f"{model}-Q4_K.gguf")
    if args.transformers:
        started["f32, transformers"] = lambda: Transformers(model, env)
    return started


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--ours", help="the program orpo-serve")
    parser.add_argument("--llama-server", help="the program llama-server")
    parser.add_argument("--mistralrs", action="store_true", help="orpo-serve is built with its second engine, too")
    parser.add_argument("--transformers", action="store_true")
    parser.add_argument("--only", nargs="+", help="rows that begin so")
    parser.add_argument("--models", nargs="+", default=["15m", "134m"], choices=random_llama.SHAPES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.worker:
        return worker(args.worker)
    if not args.ours:
        parser.error("--ours is missing")

    count = str(args.threads)
    env = {**os.environ, "RAYON_NUM_THREADS": count, "OMP_NUM_THREADS": count, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as directory:
        for size in args.models:
            started = programs(args, directory, size, env)
            if args.only:
                started = {name: start for name, start in started.items() if name.startswith(tuple(args.only))}
            results = {name: [] for name in started}
            for round in range(args.rounds):
                for name, start in started.items():
                    program = start()
                    results[name].append(measure(program, Random(round)))
                    program.stop()
                    print(size, round + 1, name, json.dumps(results[name][-1]), file=sys.stderr)
            print(f"\n{size}, {args.threads} threads, medians of {args.rounds} rounds")
            heads = ["start ms", "first ms", "decode/s", "prefill/s", "in turn/s", "at once/s", "long/s"]
            print(f"{'':20}" + "".join(f" {head:>9}" for head in heads) + f" {'shared':>6} {'MB':>6}")
            for name in sorted(results):
                median = {column: statistics.median(result[column] for result in results[name]) for column in COLUMNS}
                print(f"{name:20}" + "".join(f" {median[column]:9.0f}" for column in COLUMNS[:7])
                      + f" {median['shared']:6.3f} {median['memory']:6.0f}", flush=True)


if __name__ == "__main__":
    main()
