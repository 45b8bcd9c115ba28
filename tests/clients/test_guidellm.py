"""guidellm (the vLLM project's load generator) against a running server: every request of a benchmark succeeds and has
as many tokens as were asked for.

    pip install guidellm pytest
    orpo serve --model DIR --served-model-name m &      # a context of 512 tokens or more
    ORPO_ENDPOINT=http://127.0.0.1:8000 ORPO_TOKENIZER=DIR pytest tests/clients/test_guidellm.py
"""

import json
import os
import shutil
import subprocess

import pytest

from conftest import ENDPOINT, MODEL

pytestmark = pytest.mark.skipif(shutil.which("guidellm") is None, reason="guidellm is not installed")
REQUESTS, TOKENS = 5, 16


def test_a_benchmark_of_synthetic_texts(tmp_path):
    tokenizer = os.environ.get("ORPO_TOKENIZER")
    if tokenizer is None:
        pytest.skip("ORPO_TOKENIZER: the directory of the model's tokenizer")
    report = tmp_path / "benchmarks.json"
    command = ["guidellm", "run", "--backend", f"kind=openai_http,target={ENDPOINT},model={MODEL}",
               "--tokenizer", f"kind=huggingface_auto,model={tokenizer}",
               "--data", f"kind=synthetic_text,prompt_tokens=32,output_tokens={TOKENS}", "--profile", "kind=synchronous",
               "--constraint", f"kind=max_requests,count={REQUESTS}", "--output", f"kind=json,path={report}", "--disable-console"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    [benchmark] = json.loads(report.read_text())["benchmarks"]
    requests = benchmark["requests"]
    assert len(requests["successful"]) == REQUESTS and not requests["errored"], done.stdout[-2000:]
    assert all(request["output_tokens"] == TOKENS for request in requests["successful"])
