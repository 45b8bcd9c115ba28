"""Aggregates annotations with the official AlpacaEval program and with `orpo-eval`, several rounds, and prints medians.

    venv/bin/pip install alpaca_eval==0.6.6 scikit-learn==1.5.2 numpy==1.26.4 pandas==2.2.3 'setuptools<81'
    venv/bin/python benchmarks/peers/alpaca_lc.py --ours target/release/orpo-eval --annotations annotations.json \
        --gamed df_gamed.csv

Both sides use one core, read the same files and compute win rate and length-controlled win rate. `fit` leaves out, on the
Python side, the imports and the reading; `process` is everything from start to end.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

# BLAS would take more than one core.
THREADS = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


def aggregate_officially(annotations, gamed):
    """Seconds of the fit and the metrics, from the official program."""
    import pandas
    from alpaca_eval.metrics import glm_winrate

    # The file comes from the hub otherwise.
    glm_winrate.hf_hub_download = lambda **_: gamed
    annotations = pandas.read_json(annotations)
    start = time.perf_counter()
    metrics = glm_winrate.get_length_controlled_winrate(annotations, save_weights_dir=None)
    return time.perf_counter() - start, metrics


def timed(command):
    """Seconds of a process from start to end, and what it printed."""
    start = time.perf_counter()
    output = subprocess.run(
        ["taskset", "-c", "0", *command], env=os.environ | THREADS, check=True, capture_output=True, text=True
    ).stdout
    return time.perf_counter() - start, output


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", required=True)
    parser.add_argument("--gamed", required=True)
    parser.add_argument("--ours")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.ours is None:
        seconds, metrics = aggregate_officially(arguments.annotations, arguments.gamed)
        print(json.dumps({"seconds": seconds} | {name: float(value) for name, value in metrics.items()}))
        return
    files = ["--annotations", arguments.annotations, "--gamed", arguments.gamed]
    official, ours, fits = [], [], []
    for _ in range(arguments.rounds):
        seconds, output = timed([sys.executable, __file__, *files])
        theirs = json.loads(output.strip().splitlines()[-1])
        official.append(seconds)
        fits.append(theirs["seconds"])
        seconds, output = timed([arguments.ours, "alpaca", *files, "--json"])
        metrics = json.loads(output)["metrics"]
        ours.append(seconds)
    for name in ("win_rate", "length_controlled_winrate"):
        print(f"{name}: {theirs[name]:.4f} officially, {metrics[name]['value']:.4f} here")
    print(f"fit      {statistics.median(fits):8.3f} s officially")
    print(f"process  {statistics.median(official):8.3f} s officially, {statistics.median(ours):.3f} s here")


if __name__ == "__main__":
    main()
