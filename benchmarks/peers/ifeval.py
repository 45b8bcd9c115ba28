"""Scores saved responses with the official IFEval checkers and with `orpo-eval`, several rounds, and prints medians.

    venv/bin/pip install nltk==3.9.1 langdetect==1.0.9 immutabledict absl-py
    NLTK_DATA=DIR_WITH_PUNKT_TAB venv/bin/python benchmarks/peers/ifeval.py --official DIR --ours target/release/orpo-eval \
        --data input_data.jsonl --responses responses.jsonl

`--official` is the directory that holds the package `instruction_following_eval` of google-research. Both sides use one
core. `scoring` leaves out, on the Python side, the imports and the loading of langdetect's profiles; on ours nothing but the
start of the process. `process` is everything from start to end.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time


def score_officially(directory, data, responses):
    """Seconds of scoring and the four counts, from the official checkers."""
    sys.path.insert(0, directory)
    import langdetect
    from instruction_following_eval import instructions_registry

    langdetect.DetectorFactory.seed = 0
    langdetect.detect("a warm start")
    data, responses = load(data, responses)

    def followed(example, variants):
        verdicts = []
        for name, kwargs in zip(example["instruction_id_list"], example["kwargs"]):
            instruction = instructions_registry.INSTRUCTION_DICT[name](name)
            instruction.build_description(**{key: value for key, value in kwargs.items() if value is not None})
            arguments = instruction.get_instruction_args()
            if arguments and "prompt" in arguments:
                instruction.build_description(prompt=example["prompt"])
            verdicts.append(any(text.strip() and instruction.check_following(text) for text in variants))
        return verdicts

    def loose_variants(response):
        lines = response.split("\n")
        shorter = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
        return [text for whole in (response, *shorter) for text in (whole, whole.replace("*", ""))]

    start = time.perf_counter()
    strict = [followed(example, [responses[example["prompt"]]]) for example in data]
    loose = [followed(example, loose_variants(responses[example["prompt"]])) for example in data]
    seconds = time.perf_counter() - start
    return seconds, [count for rows in (strict, loose) for count in (sum(map(all, rows)), sum(map(sum, rows)))]


def load(data, responses):
    """The examples, and the responses by prompt."""
    data = [json.loads(line) for line in open(data, encoding="utf-8")]
    by_key = {example["key"]: example["prompt"] for example in data}
    rows = [json.loads(line) for line in open(responses, encoding="utf-8")]
    return data, {row["prompt"] if "prompt" in row else by_key[row["key"]]: row["response"] or "" for row in rows}


def measure(command):
    """What the process prints as JSON, its seconds from start to end, and its peak memory in MB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"{command[0]} failed"
    return output, time.perf_counter() - start, usage.ru_maxrss / 1024


def our_counts(results):
    names = ["prompt_strict", "inst_strict", "prompt_loose", "inst_loose"]
    metrics = [results["metrics"][name] for name in names]
    return [round(metric["value"] * metric["n"]) for metric in metrics]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ours", help="the program orpo-eval")
    parser.add_argument("--official", required=True, help="the directory that holds instruction_following_eval")
    parser.add_argument("--data", required=True, help="input_data.jsonl")
    parser.add_argument("--responses", required=True, help="JSONL with `response` and `prompt` or `key`")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--score-officially", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.score_officially:
        print(json.dumps(score_officially(args.official, args.data, args.responses)))
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    files = ["--data", args.data, "--responses", args.responses]
    rounds = {"ours": [], "official": [], "start-up": []}
    for _ in range(args.rounds):
        output, seconds, memory = measure([args.ours, "ifeval", *files, "--json"])
        results = json.loads(output)
        rounds["ours"].append((results["seconds"], seconds, memory, our_counts(results)))
        _, seconds, memory = measure([args.ours, "--version"])
        rounds["start-up"].append((0.0, seconds, memory, []))
        command = [sys.executable, __file__, "--official", args.official, *files, "--score-officially"]
        output, seconds, memory = measure(command)
        scoring, counts = json.loads(output.splitlines()[-1])
        rounds["official"].append((scoring, seconds, memory, counts))

    median = lambda name, column: statistics.median(row[column] for row in rounds[name])
    print(f"medians of {args.rounds} rounds on one core   prompt and instruction, strict and loose")
    for name in rounds:
        print(f"{name:9} scoring {median(name, 0):7.3f} s, process {median(name, 1):7.3f} s, {median(name, 2):5.0f} MB"
              f"   {rounds[name][0][3]}")
    ratios = [median("official", column) / median("ours", column) for column in (0, 1)]
    print(f"official against ours: scoring {ratios[0]:.1f} x, process {ratios[1]:.1f} x")


if __name__ == "__main__":
    main()
