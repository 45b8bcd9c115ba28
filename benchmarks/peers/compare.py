"""Runs `orpo_step` and its peers one after another, several rounds, and prints a table of medians and ratios.

    cargo build --release --workspace --bin orpo_step
    venv/bin/python benchmarks/peers/compare.py --ours target/release/orpo_step --threads 1 2

Rounds alternate between the programs, so that a disturbance of the machine meets all of them; ratios are what to look at.
The torch loop runs twice: with the allocator's defaults, and with the settings that keep large arrays mapped.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

PEER = Path(__file__).with_name("orpo_step.py")
TUNED = {"MALLOC_MMAP_THRESHOLD_": "8589934592", "MALLOC_TRIM_THRESHOLD_": "17179869184"}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ours", required=True, help="the program orpo_step")
    parser.add_argument("--model", default="15m")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--lora", type=int)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    args = parser.parse_args()

    common = ["--model", args.model, "--steps", str(args.steps)]
    common += ["--lora", str(args.lora)] if args.lora else []
    common += ["--gradient-checkpointing"] if args.gradient_checkpointing else []
    ours = lambda rows: ([args.ours, "--rows", rows], {})
    peer = lambda what, env: ([sys.executable, str(PEER), "--what", what], env)
    programs = {
        "ours, every position": ours("all"),
        "ours": ours("separate"),
        "ours, shared prompt": ours("shared"),
        "torch": peer("torch", {}),
        "torch, allocator tuned": peer("torch", TUNED),
        "TRL": peer("trl", {}),
    }
    for threads in args.threads:
        count = {"RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        results = {name: [] for name in programs}
        for _ in range(args.rounds):
            for name, (command, env) in programs.items():
                done = subprocess.run(
                    command + common, env={**os.environ, **count, **env}, capture_output=True, text=True, check=True
                )
                results[name].append(json.loads(done.stdout.splitlines()[-1]))
        median = lambda name, field: statistics.median(result[field] for result in results[name])
        print(f"\n{args.model}, {threads} thread(s){', LoRA' if args.lora else ''}"
              f"{', checkpointing' if args.gradient_checkpointing else ''}: medians of {args.rounds} rounds")
        print(f"{'':26} {'s/step':>8} {'CPU s':>8} {'MB':>7}   time against ours, and with a shared prompt")
        for name in programs:
            seconds = median(name, "seconds")
            ratios = [seconds / median(base, "seconds") for base in ("ours, every position", "ours, shared prompt")]
            print(f"{name:26} {seconds:8.2f} {median(name, 'cpu_seconds'):8.2f} {median(name, 'peak_rss_mb'):7.0f}"
                  f"   {ratios[0]:.2f} x   {ratios[1]:.2f} x")


if __name__ == "__main__":
    main()
