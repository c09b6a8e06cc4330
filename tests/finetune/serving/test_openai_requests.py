"""Tests of the requests of the OpenAI-compatible API: what is accepted, and what is refused."""

import json
from typing import Any

import pytest

from finetune.serving.completions import Invalid, parse
from serving.client import Sampling

HI = [{"role": "user", "content": "Hi"}]
BODY: dict[str, Any] = {"model": "lamps", "messages": HI}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": [], "content": "x"}]}, "messages.0.role"),
        ({"messages": [*HI, {"role": "user", "content": 5}]}, "messages.1.content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content",
        ),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": -1}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop": 3}, "stop"),
        ({"stop": "\ud800"}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"colour": "red"}, "colour"),
    ],
    ids=str,
)
def test_a_wrong_parameter_is_named(change: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid) as error:
        parse(json.dumps({**BODY, **change}).encode())
    assert error.value.param == param and str(error.value).endswith(".")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'"x"'])
def test_a_body_that_is_not_an_object_is_refused(body: bytes) -> None:
    with pytest.raises(Invalid, match="not"):
        parse(body)


def test_neutral_and_informative_parameters_are_accepted() -> None:
    more = {
        "n": 1, "user": "anna", "store": False, "frequency_penalty": 0, "logit_bias": {},
        "response_format": {"type": "text"}, "tools": None, "stop": "x", "stream": True,
    }  # fmt: skip
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    chat = [{"role": "developer", "content": parts}, *HI]
    request = parse(json.dumps({**BODY, **more, "messages": chat}).encode())
    assert request.messages == [{"role": "system", "content": "a\n\nb"}, *HI]
    assert request.stream and request.stop == ["x"] and request.sampling == Sampling()
