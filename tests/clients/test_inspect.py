"""Inspect AI (UK AISI) against a running server: a task with a scorer, several samples at once, and a tool.

    pip install inspect-ai openai pytest
    orpo serve --model DIR --served-model-name m &      # a context of 1024 tokens or more
    ORPO_ENDPOINT=http://127.0.0.1:8000 pytest tests/clients/test_inspect.py
"""

import pytest

from conftest import ENDPOINT, MODEL, closing_bias

inspect_ai = pytest.importorskip("inspect_ai")
from inspect_ai.dataset import Sample  # noqa: E402
from inspect_ai.model import GenerateConfig, ResponseSchema, get_model  # noqa: E402
from inspect_ai.scorer import includes  # noqa: E402
from inspect_ai.solver import generate, system_message  # noqa: E402
from inspect_ai.util import JSONSchema  # noqa: E402


@pytest.fixture
def model():
    return get_model(f"openai-api/orpo/{MODEL}", base_url=f"{ENDPOINT}/v1", api_key="none", memoize=False)


def run(model, tmp_path, **config):
    samples = [Sample(input=f"Tell me a story about a {animal}.", target="e") for animal in ("dog", "cat", "bird", "fish")]
    task = inspect_ai.Task(dataset=samples, solver=[system_message("Be brief."), generate()], scorer=includes(),
                           config=GenerateConfig(temperature=0, max_tokens=16, **config))
    [log] = inspect_ai.eval(task, model=model, log_dir=str(tmp_path), display="none", max_connections=4)
    assert log.status == "success", log.error
    return log


def test_a_task_is_run_to_its_end_with_usage(model, tmp_path):
    log = run(model, tmp_path)
    assert len(log.samples) == 4 and all(sample.output.completion for sample in log.samples)
    assert all(usage.output_tokens == 64 for usage in log.stats.model_usage.values())


def test_log_probabilities_arrive(model, tmp_path):
    log = run(model, tmp_path, logprobs=True, top_logprobs=2)
    assert all(len(sample.output.choices[0].logprobs.content) == 16 for sample in log.samples)


def test_a_schema_is_followed(model, tmp_path):
    schema = ResponseSchema(name="size", json_schema=JSONSchema(
        type="object", properties={"big": JSONSchema(type="boolean")}, required=["big"], additionalProperties=False))
    bias = {int(token): int(value) for token, value in closing_bias().items()}
    log = run(model, tmp_path, response_schema=schema, logit_bias=bias)
    assert all(sample.output.completion.startswith("{") for sample in log.samples)
