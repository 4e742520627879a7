"""Neither the key nor a piece of the content is ever said: not in an error, a repr, a log or a traceback."""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Iterator

import pytest

from embedmill.adapters.providers.openai import OpenAIProvider
from embedmill.adapters.providers.refusals import CallContext, error_for, read_refusal
from embedmill.errors import InputRejectedError, ProviderError
from embedmill.ports import ProviderSpec, Purpose
from tests.adapters.test_openai_faults import FAULTS
from tests.support.provider import RunningProvider, start_provider

KEY = "sk-sesame-0123456789"
TEXTS = ["The patient Ms Quimby was given arsenic on Tuesday.", "PIN 4711-0815"]


@pytest.fixture(scope="module")
def stand_in() -> Iterator[RunningProvider]:
    with start_provider(dimensions=64) as running:
        yield running


def assert_silent(text: str) -> None:
    text = re.sub(r"0x[0-9a-f]+", "0x", text)  # addresses of objects hold any digits
    for secret in (KEY, "sesame", "Quimby", "arsenic", "4711"):
        assert secret not in text


async def failure(base_url: str, texts: list[str]) -> ProviderError:
    spec = ProviderSpec(
        provider="openai",
        model="m",
        dimensions=64,
        base_url=base_url,
        api_key_env="MY_KEY",
        timeout_seconds=0.5,
    )
    provider = OpenAIProvider(spec, api_key=KEY)
    assert_silent(repr(provider))
    try:
        await provider.embed(texts, Purpose.DOCUMENT)
    except ProviderError as error:
        return error
    finally:
        await provider.aclose()
    raise AssertionError("the call did not fail")


@pytest.mark.parametrize("fault", [*FAULTS, "hang"])
async def test_no_fault_lets_a_secret_out(
    stand_in: RunningProvider, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    stand_in.reset(dimensions=64, faults=[fault, fault])
    error = await failure(stand_in.base_url, TEXTS)
    assert_silent("".join(traceback.format_exception(error)))
    assert_silent(caplog.text)


async def test_a_server_that_quotes_the_key_or_the_input_is_not_passed_on(stand_in: RunningProvider) -> None:
    stand_in.reset(api_key="another")
    error = await failure(stand_in.base_url, TEXTS)
    assert_silent("".join(traceback.format_exception(error)))
    assert "MY_KEY" in str(error)
    for texts in (TEXTS, ["arsenic"]):
        stand_in.reset(poison="arsenic", poison_names_input=True)
        error = await failure(stand_in.base_url, texts)
        assert type(error) is InputRejectedError
        assert_silent("".join(traceback.format_exception(error)))


def said_by(body: object, texts: list[str]) -> str:
    context = CallContext(
        model="m", host="h", key_hint="check MY_KEY", api_key=KEY, inputs=texts, parameters=["task"]
    )
    assert_silent(repr(context))
    raw = json.dumps(body).encode()
    from datetime import UTC, datetime

    return str(error_for(400, {}, read_refusal(raw), context, datetime.now(UTC)))


def test_the_useful_words_of_each_kind_of_server_are_kept() -> None:
    words = "must have less than 512 tokens"
    bodies: list[object] = [
        {"error": {"message": words, "type": "invalid_request_error", "param": "input", "code": None}},
        {"error": words, "error_type": "Validation"},
        {"message": words},
        {"object": "error", "message": words, "code": 400},
        {"detail": words},
        {"detail": [{"loc": ["body", "input"], "msg": words, "type": "x", "input": TEXTS[0]}]},
        [{"error": {"code": 400, "message": words, "status": "INVALID_ARGUMENT"}}],
    ]
    for body in bodies:
        said = said_by(body, TEXTS)
        assert words in said
        assert_silent(said)


@pytest.mark.parametrize(
    "message",
    [
        "bad input: " + TEXTS[0],
        "bad input: " + TEXTS[0][10:40],
        "bad input: " + TEXTS[0].replace(" ", "\n"),
        "bad input: PIN 4711-0815",
        f"bad key {KEY}",
    ],
)
def test_words_that_repeat_content_or_key_are_left_out(message: str) -> None:
    assert_silent(said_by({"error": {"message": message}}, TEXTS))


def test_a_long_message_is_shortened() -> None:
    assert len(said_by({"error": {"message": "no " * 5000}}, TEXTS)) < 400
