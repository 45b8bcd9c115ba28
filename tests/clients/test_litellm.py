"""litellm, which many agents and gateways ask through, against a running server.

    pip install litellm openai pytest
    orpo serve --model DIR --served-model-name m &      # a context of 1024 tokens or more
    ORPO_ENDPOINT=http://127.0.0.1:8000 pytest tests/clients/test_litellm.py
"""

import json
import os

import pytest

from conftest import ENDPOINT, MODEL, closing_bias

litellm = pytest.importorskip("litellm")

MESSAGES = [{"role": "user", "content": "Tell me a story about a dog."}]
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}},
          "required": ["age"], "additionalProperties": False}


def chat(provider="openai", **extra):
    return litellm.completion(model=f"{provider}/{MODEL}", messages=MESSAGES, api_base=f"{ENDPOINT}/v1",
                              api_key=os.environ.get("ORPO_API_KEY", "none"), num_retries=0, timeout=60,
                              **{"max_tokens": 16, "temperature": 0, **extra})


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_a_stream_says_what_the_whole_reply_says(provider):
    whole = chat(provider)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chat(provider, stream=True))
    assert text == whole.choices[0].message.content and whole.usage.completion_tokens == 16


def test_a_schema_is_followed():
    form = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": SCHEMA}}
    reply = json.loads(chat(response_format=form, max_tokens=80, logit_bias=closing_bias()).choices[0].message.content)
    assert set(reply) == {"age"} and 0 <= reply["age"] <= 99


def test_text_completions():
    reply = litellm.text_completion(model=f"text-completion-openai/{MODEL}", prompt="One day", max_tokens=4, temperature=0,
                                    api_base=f"{ENDPOINT}/v1", api_key="none")
    assert reply.choices[0].text and reply.usage.completion_tokens == 4


def test_a_reply_can_be_sent_back():
    """The message object of a reply, with whatever keys litellm puts into it, is part of the next request."""
    first = chat().choices[0].message
    messages = [*MESSAGES, first.model_dump(), {"role": "user", "content": "And then?"}]
    reply = litellm.completion(model=f"openai/{MODEL}", messages=messages, api_base=f"{ENDPOINT}/v1", api_key="none", max_tokens=4)
    assert reply.choices[0].message.content is not None


def test_errors_have_their_classes():
    with pytest.raises(litellm.BadRequestError):
        chat(temperature=9)
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(model=f"openai/{MODEL}", messages=[{"role": "user", "content": "word " * 20000}],
                           api_base=f"{ENDPOINT}/v1", api_key="none")
