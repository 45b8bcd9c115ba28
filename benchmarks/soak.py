"""Sends thousands of distinct short requests to `orpo-serve` and watches the memory of its process.

    cargo build --release
    python3 benchmarks/soak.py --ours target/release/orpo-serve

The model is a small random one that this program makes. Chat and completions, whole and streamed, with and without
log-probabilities, scored prompts, several choices, JSON schemas, errors; every eleventh client goes away in the middle.
Exit code 1 if the resident memory grows by more than `--limit` percent after the first `--warm-up` requests, if a request is
not answered as it should be, or if pages of the key-value cache or places in the line are held in the end.
"""

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import random_llama

MODEL = "soak"
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
# Bytes. So small that the warm-up fills it: what is used for the first time later would look like a leak.
CACHE = 8_000_000
GONE = None  # The client goes away in the middle.
ENDLESS = {str(random_llama.SHAPES["0.4m"]["vocab_size"] - 1): -100}


def request(number):
    """Path, body, and the expected status."""
    # Few words, as the tokenizer remembers ten thousand of them.
    text = f"request {number % 100} of hundred {number // 100}"
    chat = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 12 + number % 9}
    plain = {"model": MODEL, "prompt": text, "max_tokens": 12 + number % 9}
    stream = {"stream": number % 4 < 2, "seed": number}
    kinds = [
        ("/v1/chat/completions", {**chat, **stream}, 200),
        ("/v1/completions", {**plain, **stream}, 200),
        ("/v1/chat/completions", {**chat, **stream, "logprobs": True, "top_logprobs": 5}, 200),
        ("/v1/completions", {**plain, **stream, "logprobs": 3, "n": 2}, 200),
        ("/v1/completions", {**plain, "echo": True, "logprobs": 1, "max_tokens": number % 2}, 200),
        ("/v1/chat/completions", {**chat, **stream, "stop": ["a", "e", "word3"]}, 200),
        ("/v1/chat/completions", {**chat, "temperature": 0, "response_format": {
            "type": "json_schema", "json_schema": {"name": f"schema{number % 3}", "schema": SCHEMA}}}, 200),
        ("/v1/completions", {**plain, "prompt": [text, text + "!"], "temperature": 0.5}, 200),
        ("/tokenize", {"model": MODEL, "prompt": text}, 200),
        ("/v1/chat/completions", {**chat, "temperature": "hot"}, 400),
        ("/v1/completions", {**plain, **stream, "max_tokens": 500, "logit_bias": ENDLESS}, GONE),
    ]
    return kinds[number % len(kinds)]


def ask(address, number):
    """Sends one request; an error message, or None."""
    path, body, expected = request(number)
    connection = http.client.HTTPConnection(address, timeout=120)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        if expected is GONE and not body["stream"]:
            # Under way, most likely: the reply takes longer than this.
            time.sleep(0.02)
            return None
        answer = connection.getresponse()
        if expected is GONE:
            answer.read1(64)
            return None
        content = answer.read()
        if answer.status != expected:
            return f"{path} {json.dumps(body)}: {answer.status} {content[:200]}"
        if body.get("stream") and not content.rstrip().endswith(b"data: [DONE]"):
            return f"{path} {json.dumps(body)}: the stream ends with {content[-200:]}"
        return None
    finally:
        connection.close()


def held(address):
    """What is still held of what requests hold, by metric, ten seconds after the last one at the latest."""
    names = ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"]
    for _ in range(100):
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("GET", "/metrics")
        lines = [line.split() for line in connection.getresponse().read().decode().splitlines()]
        connection.close()
        values = {line[0].split("{")[0].removeprefix("vllm:"): float(line[-1]) for line in lines if line[0] != "#"}
        left = {name: values[name] for name in names if values[name]}
        if not left:
            break
        time.sleep(0.1)
    return left


def memory(process):
    """Resident memory in MB."""
    lines = open(f"/proc/{process.pid}/status", encoding="ascii").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024 / 1e6


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ours", required=True, help="the program orpo-serve")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--warm-up", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--limit", type=float, default=5.0, help="percent")
    parser.add_argument("--seconds", type=float, default=600, help="give up after so long")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as directory:
        parameters = random_llama.write(directory, random_llama.SHAPES["0.4m"])
        server = subprocess.Popen(
            [args.ours, "--model", directory, "--served-model-name", MODEL, "--port", "0", "--exit-with-stdin",
             "--kv-cache-bytes", str(CACHE)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        try:
            line = server.stdout.readline()
            if not line:
                sys.exit("error: the server does not start; run it by hand to see why")
            address = urlsplit(line.split()[-1]).netloc
            print(f"model of {parameters / 1e6:.2f} million parameters; {memory(server):.1f} MB at rest")
            start, first, done, problems = time.monotonic(), None, 0, []
            with ThreadPoolExecutor(args.clients) as clients:
                while done < args.requests:
                    step = min(args.warm_up, args.requests - done)
                    answers = clients.map(lambda number: ask(address, number), range(done, done + step))
                    problems += [problem for problem in answers if problem]
                    done += step
                    now = memory(server)
                    first = first or now
                    growth = 100 * (now / first - 1)
                    seconds = time.monotonic() - start
                    print(f"{done:6} requests {seconds:6.1f} s {now:8.1f} MB {growth:+6.2f} %", flush=True)
                    if seconds > args.seconds:
                        sys.exit(f"error: {args.requests} requests did not fit into {args.seconds:.0f} s")
            left = held(address)
        finally:
            server.stdin.close()
            server.wait(timeout=60)
    for problem in problems[:5]:
        print(problem, file=sys.stderr)
    print(f"{len(problems)} wrong answers, memory {growth:+.2f} % since request {args.warm_up}, "
          f"held in the end: {left or 'nothing'}, exit {server.returncode}")
    sys.exit(1 if problems or left or growth > args.limit or server.returncode else 0)


if __name__ == "__main__":
    main()
