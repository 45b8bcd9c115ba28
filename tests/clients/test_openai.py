"""The official Python client against a running server.

    pip install openai langchain-openai langchain-tests pytest pytest-asyncio      # conftest.py is shared with the next file
    orpo serve --model DIR --served-model-name m --max-queue 0 &      # a context of 1024 tokens or more
    ORPO_ENDPOINT=http://127.0.0.1:8000 pytest tests/clients/test_openai.py
"""

import concurrent.futures
import json
import os

import openai
import pytest

from conftest import ENDPOINT, MODEL, closing_bias

MESSAGES = [{"role": "user", "content": "Tell me a story about a dog."}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture
def client():
    return openai.OpenAI(base_url=f"{ENDPOINT}/v1", api_key=os.environ.get("ORPO_API_KEY", "none"), max_retries=0, timeout=60)


def chat(client, **extra):
    return client.chat.completions.create(model=MODEL, messages=MESSAGES, **{"max_tokens": 16, "temperature": 0, **extra})


def test_models(client):
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_stream_says_what_the_whole_reply_says(client):
    whole = chat(client, logprobs=True, top_logprobs=2)
    chunks = list(chat(client, logprobs=True, top_logprobs=2, stream=True, stream_options={"include_usage": True}))
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant" and not chunks[0].choices[0].delta.content
    assert chunks[-1].choices == []
    # How much of a prompt the server knew before is another matter.
    counts = lambda usage: (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
    assert counts(chunks[-1].usage) == counts(whole.usage)
    deltas = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in deltas) == whole.choices[0].message.content
    assert [choice.finish_reason for choice in deltas if choice.finish_reason] == [whole.choices[0].finish_reason]
    tokens = [token for choice in deltas if choice.logprobs for token in choice.logprobs.content]
    assert tokens == whole.choices[0].logprobs.content


def test_choices_of_a_seed_are_reproducible_and_differ(client):
    first, second = [chat(client, n=3, temperature=1.0, seed=7) for _ in range(2)]
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices] and len(set(texts)) > 1


def test_completions_echo_with_log_probabilities(client):
    reply = client.completions.create(model=MODEL, prompt=["One day", "A cat"], max_tokens=1, echo=True, logprobs=1, temperature=0)
    for choice in reply.choices:
        logprobs = choice.logprobs
        assert logprobs.token_logprobs[0] is None and all(value <= 0 for value in logprobs.token_logprobs[1:])
        assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset)


def test_stop_strings_never_show(client):
    whole = chat(client).choices[0].message.content
    stop = whole[6:9]
    reply = chat(client, stop=[stop]).choices[0]
    assert reply.message.content == whole[: whole.index(stop)] and reply.finish_reason == "stop"


def test_a_json_schema_is_followed(client):
    form = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": SCHEMA}}
    reply = json.loads(chat(client, response_format=form, max_tokens=120, logit_bias=closing_bias()).choices[0].message.content)
    assert set(reply) == {"name", "age"} and 0 <= reply["age"] <= 99


def test_a_required_tool_is_called(client):
    tool = {"type": "function", "function": {"name": "register", "parameters": SCHEMA}}
    try:
        choice = chat(client, tools=[tool], tool_choice="required", max_tokens=400, logit_bias=closing_bias()).choices[0]
    except openai.BadRequestError as error:
        pytest.skip(f"this model's template knows no tools: {error.message}")
    assert choice.finish_reason == "tool_calls"
    call = choice.message.tool_calls[0].function
    assert call.name == "register" and set(json.loads(call.arguments)) == {"name", "age"}


def test_errors_have_their_classes(client):
    with pytest.raises(openai.NotFoundError) as found:
        client.chat.completions.create(model="nobody", messages=MESSAGES)
    assert found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as found:
        chat(client, temperature=9)
    assert found.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as found:
        chat(client, extra_body={"no_such_field": 1})
    assert found.value.param == "no_such_field"
    long = [{"role": "user", "content": "word " * 20000}]
    with pytest.raises(openai.BadRequestError) as found:
        client.chat.completions.create(model=MODEL, messages=long)
    assert found.value.code == "context_length_exceeded"


def test_a_full_server_is_tried_again(client):
    """With `--max-queue 0` concurrent requests get 429, which the client repeats after Retry-After."""
    patient = client.with_options(max_retries=20)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: chat(patient, max_tokens=64), range(4)))
    assert len({reply.choices[0].message.content for reply in replies}) == 1
