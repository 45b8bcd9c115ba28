"""`llm`, Simon Willison's command line, against a running server.

    pip install llm pytest
    orpo serve --model DIR --served-model-name m &
    ORPO_ENDPOINT=http://127.0.0.1:8000 pytest tests/clients/test_llm.py
"""

import json
import shutil
import subprocess

import pytest

from conftest import ENDPOINT, MODEL

pytestmark = pytest.mark.skipif(shutil.which("llm") is None, reason="llm is not installed")


@pytest.fixture
def llm(tmp_path, monkeypatch):
    """The command with the server as its only extra model, as its documentation configures one."""
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    entry = [{"model_id": "orpo", "model_name": MODEL, "api_base": f"{ENDPOINT}/v1", "supports_schema": True}]
    # YAML is a superset of JSON.
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(entry))

    def run(*args):
        done = subprocess.run(["llm", *args], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


OPTIONS = ["-m", "orpo", "--key", "none", "-o", "temperature", "0", "-o", "max_tokens", "16"]


def test_a_stream_says_what_the_whole_reply_says(llm):
    prompt = "Tell me a story about a dog."
    streamed, whole = llm(prompt, *OPTIONS), llm(prompt, *OPTIONS, "--no-stream")
    assert streamed == whole and streamed.strip()


def test_a_conversation_is_continued(llm):
    first = llm("Tell me a story about a dog.", *OPTIONS)
    second = llm("And then?", "--continue", "--key", "none", "-o", "temperature", "0", "-o", "max_tokens", "16")
    assert first.strip() and second.strip()


def test_a_schema_is_followed(llm):
    reply = llm("A dog.", "-m", "orpo", "--key", "none", "-o", "temperature", "0", "-o", "max_tokens", "120", "--no-stream",
                "--schema", "is_big bool")
    assert isinstance(json.loads(reply)["is_big"], bool)
