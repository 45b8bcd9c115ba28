"""lm-evaluation-harness asks a served model (`local-completions`) and loads the same directory itself (`hf`): the
log-likelihoods of a local multiple-choice task and a local perplexity task must agree to 1e-3, the greedy flags exactly.

    pip install torch transformers "lm-eval[api]"
    python tests/clients/lm_eval_backends.py --orpo target/release/orpo --model DIR
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
import lm_eval
from lm_eval.tasks import TaskManager

TOLERANCE = 1e-3
# Characters that every vocabulary has: transformers 5 drops what a Llama vocabulary without bytes does not know.
ANIMALS = ["dog", "cat", "bird", "rabbit", "fish", "frog", "duck", "bear"]
ENDINGS = [" wanted to play in the park.", " sat down and ate a red apple.", " said, I am happy today!"]

CHOICE = """
task: choice
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{endings}}"
target_delimiter: ""
doc_to_target: 0
metric_list: [{metric: acc}]
"""

PERPLEXITY = """
task: perplexity
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{context}}{{endings[0]}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}]
"""


def write_tasks(directory: Path) -> TaskManager:
    rows = [{"context": f"Once upon a time there was a little {animal}. The {animal}", "endings": ENDINGS} for animal in ANIMALS]
    data = directory / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (directory / "choice.yaml").write_text(CHOICE % data)
    (directory / "perplexity.yaml").write_text(PERPLEXITY % data)
    return TaskManager(include_path=str(directory), include_defaults=False)


def evaluate(model: str, arguments: dict, tasks: TaskManager) -> dict:
    """Task -> the (log-likelihood, is greedy) of every request, in the data's order."""
    result = lm_eval.simple_evaluate(
        model=model, model_args=arguments, tasks=["choice", "perplexity"], task_manager=tasks, log_samples=True,
        batch_size=4, bootstrap_iters=0)
    samples = {}
    for task, rows in result["samples"].items():
        rows = sorted(rows, key=lambda row: row["doc_id"])
        samples[task] = [response for row in rows for response in flat(row["filtered_resps"])]
    return samples


def flat(responses) -> list:
    """Pairs of log-likelihood and flag; a rolling log-likelihood is a number alone."""
    return [(float(r[0]), r[1]) if isinstance(r, (list, tuple)) else (float(r), None) for r in responses]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orpo", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--serve-args", default="", help="more arguments for the server")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        tasks = write_tasks(Path(directory))
        loaded = {"pretrained": options.model, "dtype": "float32", "device": "cpu"}
        # Token ids are sent as the harness made them. Its text mode (`tokenized_requests=False`) is not compared: it counts the
        # context's tokens without the BOS that a server puts before a text, and so sums from one token too early.
        expected = {bos: evaluate("hf", loaded | {"add_bos_token": bos}, tasks) for bos in (False, True)}
        command = [options.orpo, "serve", "--model", options.model, "--port", "0", "--served-model-name", "m", "--exit-with-stdin",
                   *options.serve_args.split()]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            url = server.stdout.readline().removeprefix("listening on ").strip() or sys.exit("the server did not start")
            asked = {"model": "m", "base_url": f"{url}/v1/completions", "num_concurrent": 2, "max_retries": 1, "max_length": 512}
            local = {"tokenizer_backend": "huggingface", "tokenizer": options.model}
            variants = {
                "token ids": (local, False),
                "token ids with BOS": (local | {"add_bos_token": True}, True),
                "remote tokenizer": ({"tokenizer_backend": "remote"}, False),
            }
            failures = 0
            for name, (extra, bos) in variants.items():
                found = evaluate("local-completions", asked | extra, tasks)
                for task, rows in expected[bos].items():
                    assert len(rows) == len(found[task]) > 0
                    worst = max(abs(a[0] - b[0]) for a, b in zip(rows, found[task]))
                    flags = sum(a[1] != b[1] for a, b in zip(rows, found[task]))
                    failures += worst > TOLERANCE or flags > 0
                    print(f"{name:20} {task:12} {len(rows)} requests, largest difference {worst:.2e}, greedy flags that differ {flags}")
        finally:
            server.stdin.close()
            server.wait(timeout=30)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
