"""LangChain's standard tests of chat models against a running server.

    pip install langchain-openai langchain-tests pytest pytest-asyncio
    orpo serve --model DIR --served-model-name m &
    ORPO_ENDPOINT=http://127.0.0.1:8000 pytest tests/clients/test_langchain.py

ORPO_CAPABLE=1 adds the tests that need a model which calls tools, and writes given keys, when asked to in words.
"""

import os

from conftest import ENDPOINT, MODEL, closing_bias
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

CAPABLE = os.environ.get("ORPO_CAPABLE") == "1"


class TestOrpoServe(ChatModelIntegrationTests):
    @property
    def chat_model_class(self):
        return ChatOpenAI

    @property
    def chat_model_params(self):
        return {"model": MODEL, "base_url": f"{ENDPOINT}/v1", "api_key": "none", "temperature": 0, "max_tokens": 300,
                "stream_usage": True, "logit_bias": closing_bias()}

    @property
    def has_tool_calling(self):
        return CAPABLE

    @property
    def has_tool_choice(self):
        return CAPABLE

    @property
    def has_structured_output(self):
        return True

    @property
    def structured_output_kwargs(self):
        return {"method": "json_schema"}

    @property
    def supports_json_mode(self):
        return CAPABLE
