"""Where the server is, and what makes a tiny model fit for tests of structured replies."""

import json
import os
import urllib.request

ENDPOINT = os.environ.get("ORPO_ENDPOINT", "http://127.0.0.1:8000")
MODEL = os.environ.get("ORPO_MODEL", "m")


def closing_bias() -> dict[str, float]:
    """A logit bias for the marks that end strings and objects. A tiny model never closes a string by itself, and only
    the form of its replies is tested."""
    bias = {}
    for mark in ('"', "}", ":"):
        body = json.dumps({"model": MODEL, "prompt": mark, "add_special_tokens": False}).encode()
        request = urllib.request.Request(f"{ENDPOINT}/tokenize", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as reply:
            bias[str(json.load(reply)["tokens"][-1])] = 50.0
    return bias
