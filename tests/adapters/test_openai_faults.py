"""Every way the stand-in can fail, and the one error each must become."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest

from embedmill.adapters.providers.openai import OpenAIProvider
from embedmill.errors import (
    BadResponseError,
    InputRejectedError,
    ProviderError,
    ProviderRefusedError,
    ProviderUnavailableError,
    RateLimitedError,
)
from embedmill.ports import ProviderSpec, Purpose
from tests.support.provider import RunningProvider, start_provider, vectors_for

TEXTS = ["one text", "and another", "the third of them"]

# what each becomes, and whether it may have been paid all the same
FAULTS: dict[str, tuple[type[ProviderError], bool]] = {
    "400": (InputRejectedError, False),
    "413": (InputRejectedError, False),
    "422": (InputRejectedError, False),
    "401": (ProviderRefusedError, False),
    "402": (ProviderRefusedError, False),
    "403": (ProviderRefusedError, False),
    "404": (ProviderRefusedError, False),
    "405": (ProviderRefusedError, False),
    "418": (ProviderRefusedError, False),
    "redirect": (ProviderRefusedError, False),
    "insufficient_quota": (ProviderRefusedError, False),
    "429": (RateLimitedError, False),
    "408": (ProviderUnavailableError, False),
    "409": (ProviderUnavailableError, False),
    "424": (ProviderUnavailableError, False),
    "425": (ProviderUnavailableError, False),
    "500": (ProviderUnavailableError, False),
    "503": (ProviderUnavailableError, False),
    "529": (ProviderUnavailableError, False),
    "504": (ProviderUnavailableError, True),
    "524": (ProviderUnavailableError, True),
    "drop": (ProviderUnavailableError, True),
    "drop_after": (ProviderUnavailableError, True),
    "drop_mid": (ProviderUnavailableError, True),
    "short": (BadResponseError, True),
    "extra": (BadResponseError, True),
    "duplicate_index": (BadResponseError, True),
    "missing_index": (BadResponseError, True),
    "no_index": (BadResponseError, True),
    "wrong_index": (BadResponseError, True),
    "nan": (BadResponseError, True),
    "inf": (BadResponseError, True),
    "zero": (BadResponseError, True),
    "wrong_dims": (BadResponseError, True),
    "mixed_dims": (BadResponseError, True),
    "html": (BadResponseError, True),
    "not_json": (BadResponseError, True),
    "empty": (BadResponseError, True),
}
SLOW_FAULTS = ("hang", "hang_paid", "slow_body")


@pytest.fixture(scope="module")
def stand_in() -> Iterator[RunningProvider]:
    with start_provider() as running:
        yield running


def spec_for(base_url: str, **fields: object) -> ProviderSpec:
    values = {"provider": "openai", "model": "m", "dimensions": 64, "base_url": base_url, **fields}
    return ProviderSpec(**values)  # type: ignore[arg-type]


@pytest.fixture
async def provider(stand_in: RunningProvider) -> AsyncIterator[OpenAIProvider]:
    stand_in.reset(dimensions=64)
    built = OpenAIProvider(spec_for(stand_in.base_url, api_key_env="MY_KEY"), api_key="sk-secret-1")
    await built.embed(["a first call, so that nothing is learnt in the next"], Purpose.DOCUMENT)
    yield built
    await built.aclose()


@pytest.mark.parametrize("encoding", ["base64", "floats"])
@pytest.mark.parametrize("fault", list(FAULTS))
async def test_each_fault_becomes_its_error_and_the_next_call_works(
    provider: OpenAIProvider, stand_in: RunningProvider, fault: str, encoding: str
) -> None:
    error_type, charged = FAULTS[fault]
    stand_in.configure(faults=[fault], base64="serve" if encoding == "base64" else "ignore")
    with pytest.raises(ProviderError) as raised:
        await provider.embed(TEXTS, Purpose.DOCUMENT)
    assert type(raised.value) is error_type
    assert raised.value.charged is charged
    assert str(raised.value)
    answer = await provider.embed(TEXTS, Purpose.DOCUMENT)
    assert np.array_equal(answer.vectors, vectors_for(TEXTS, 64))


@pytest.mark.parametrize("fault", SLOW_FAULTS)
async def test_the_deadline_covers_the_whole_call(stand_in: RunningProvider, fault: str) -> None:
    stand_in.reset(dimensions=64, faults=[fault], slow_body_seconds=60)
    provider = OpenAIProvider(spec_for(stand_in.base_url, timeout_seconds=0.5), api_key=None)
    with pytest.raises(ProviderUnavailableError, match=r"within 0\.5 s") as raised:
        await provider.embed(TEXTS, Purpose.DOCUMENT)
    assert raised.value.charged
    answer = await provider.embed(TEXTS, Purpose.DOCUMENT)
    assert np.array_equal(answer.vectors, vectors_for(TEXTS, 64))
    await provider.aclose()


@pytest.mark.parametrize("encoding", ["serve", "ignore"])
async def test_an_answer_in_another_order_is_put_right(
    provider: OpenAIProvider, stand_in: RunningProvider, encoding: str
) -> None:
    stand_in.configure(faults=["reordered"], base64=encoding)
    answer = await provider.embed(TEXTS, Purpose.DOCUMENT)
    assert np.array_equal(answer.vectors, vectors_for(TEXTS, 64))
    assert answer.vectors.flags["C_CONTIGUOUS"]


async def test_a_slip_beside_sound_vectors_loses_nothing(
    provider: OpenAIProvider, stand_in: RunningProvider
) -> None:
    stand_in.configure(faults=["bad_usage"])
    answer = await provider.embed(TEXTS, Purpose.DOCUMENT)
    assert np.array_equal(answer.vectors, vectors_for(TEXTS, 64))
    assert answer.tokens is None


@pytest.mark.parametrize("style", ["seconds", "date", "ms", "none"])
async def test_a_429_says_how_long_to_wait(
    provider: OpenAIProvider, stand_in: RunningProvider, style: str
) -> None:
    stand_in.configure(faults=["429"], retry_after=style, retry_after_seconds=17)
    with pytest.raises(RateLimitedError) as raised:
        await provider.embed(TEXTS, Purpose.DOCUMENT)
    assert raised.value.retry_after_seconds == pytest.approx(17, abs=1.1)


async def test_the_limits_of_the_server_hold_and_refused_calls_are_not_paid(
    provider: OpenAIProvider, stand_in: RunningProvider
) -> None:
    stand_in.configure(calls_per_minute=2, window_seconds=600)
    stand_in.forget_counts()
    for _ in range(2):
        await provider.embed(TEXTS, Purpose.DOCUMENT)
    with pytest.raises(RateLimitedError) as raised:
        await provider.embed(TEXTS, Purpose.DOCUMENT)
    assert raised.value.retry_after_seconds
    assert raised.value.retry_after_seconds <= 600
    assert stand_in.paid_for(TEXTS) == [2, 2, 2]


async def test_a_drop_is_charged_only_when_the_request_was_out() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        provider = OpenAIProvider(spec_for(f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"), api_key=None)
        with pytest.raises(ProviderUnavailableError, match="cannot be reached") as raised:
            await provider.embed(TEXTS, Purpose.DOCUMENT)
        assert not raised.value.charged
        await provider.aclose()


@pytest.mark.parametrize(
    "base_url",
    ["https://127.0.0.1:{port}/v1", "http://no-such-host.invalid/v1", "http://127.0.0.1:0/v1", "http://-/v1"],
)
async def test_a_wrong_address_is_a_provider_error_and_costs_nothing(
    stand_in: RunningProvider, base_url: str
) -> None:
    provider = OpenAIProvider(spec_for(base_url.format(port=stand_in.port)), api_key=None)
    with pytest.raises(ProviderError) as raised:
        await provider.embed(TEXTS, Purpose.DOCUMENT)
    assert not raised.value.charged
    await provider.aclose()


async def test_a_closed_provider_refuses_as_a_provider_error(provider: OpenAIProvider) -> None:
    await provider.aclose()
    with pytest.raises(ProviderUnavailableError, match="closed"):
        await provider.embed(TEXTS, Purpose.DOCUMENT)


async def until_in_flight(stand_in: RunningProvider, count: int) -> None:
    async with asyncio.timeout(30):
        while stand_in.stats()["in_flight"] != count:  # it is another process
            await asyncio.sleep(0.01)


async def test_cancelling_closes_the_connection_of_that_call_only(
    provider: OpenAIProvider, stand_in: RunningProvider
) -> None:
    stand_in.configure(faults=["hang"])
    call = asyncio.create_task(provider.embed(TEXTS, Purpose.DOCUMENT))
    await until_in_flight(stand_in, 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until_in_flight(stand_in, 0)
    answer = await provider.embed(TEXTS, Purpose.DOCUMENT)
    assert np.array_equal(answer.vectors, vectors_for(TEXTS, 64))
