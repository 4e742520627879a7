"""The stand-in itself: what tests and benchmarks believe of it must be true."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.provider import (
    RunningProvider,
    digest_of,
    start_provider,
    tokens_for,
    vector_for,
    vectors_for,
)
from tests.support.provider.handle import REPOSITORY
from tests.support.provider.ledger import Ledger


@pytest.fixture(scope="module")
def running() -> Iterator[RunningProvider]:
    with start_provider() as provider:
        yield provider


@pytest.fixture
def provider(running: RunningProvider) -> RunningProvider:
    running.reset(dimensions=96)
    return running


def post(provider: RunningProvider, **body: object) -> tuple[int, dict[str, str], dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", provider.port, timeout=30)
    try:
        connection.request("POST", "/v1/embeddings", json.dumps({"model": "m", **body}))
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, json.loads(response.read())
    finally:
        connection.close()


def vectors_in(answer: dict[str, object]) -> np.ndarray:
    rows = []
    for item in answer["data"]:  # type: ignore[attr-defined]
        given_as = item["embedding"]
        raw = base64.b64decode(given_as) if isinstance(given_as, str) else np.float32(given_as).tobytes()
        rows.append(np.frombuffer(raw, "<f4"))
    return np.stack(rows)


@given(
    st.text(),
    st.sampled_from([1, 2, 3, 8, 47, 48, 49, 95, 96, 384, 768, 1000, 1536, 3072]),
    st.text(max_size=9),
)
def test_vectors_are_unit_repeatable_and_differ_by_salt(text: str, dimensions: int, salt: str) -> None:
    vector = vector_for(text, dimensions, salt)
    assert vector.shape == (dimensions,)
    assert vector.dtype == np.float32
    assert abs(np.linalg.norm(vector.astype(np.float64)) - 1) < 1e-6
    assert np.array_equal(vector, vector_for(text, dimensions, salt))
    if dimensions > 2:
        assert not np.array_equal(vector, vector_for(text, dimensions, salt + "x"))


@pytest.mark.parametrize("dimensions", [3, 384, 1536])
def test_different_texts_get_different_vectors(dimensions: int) -> None:
    vectors = vectors_for([f"text {number}" for number in range(5000)], dimensions)
    assert len({row.tobytes() for row in vectors}) == 5000


@pytest.mark.parametrize("dimensions", [8, 96, 100, 1536])
@pytest.mark.parametrize("encoding", ["base64", "float"])
def test_serves_exactly_what_vector_for_says(
    provider: RunningProvider, encoding: str, dimensions: int
) -> None:
    texts = ["a", "", "naïve 日本", "b\n" * 1000]
    provider.configure(reject_empty_text=False)
    status, _, answer = post(provider, input=texts, encoding_format=encoding, dimensions=dimensions)
    assert status == 200
    assert np.array_equal(vectors_in(answer), vectors_for(texts, dimensions))
    assert answer["usage"]["prompt_tokens"] == sum(map(tokens_for, texts))  # type: ignore[index]


def test_counts_what_was_paid_by_input_and_forgets_on_reset(provider: RunningProvider) -> None:
    post(provider, input=["a", "b", "a"])
    post(provider, input="a")
    stats = provider.stats()
    assert (stats["calls"], stats["inputs_paid"], stats["distinct_inputs_paid"]) == (2, 4, 2)
    assert (stats["most_paid_for_one_input"], stats["max_inputs_in_a_call"]) == (3, 3)
    assert provider.paid() == {digest_of("a"): 3, digest_of("b"): 1}
    assert provider.paid_for(["b", "a", "c"]) == [1, 3, 0]
    provider.reset()
    assert provider.stats()["calls"] == 0
    assert provider.paid() == {}


def test_refused_calls_are_counted_and_not_paid(provider: RunningProvider) -> None:
    provider.configure(faults=["500", "401"], poison="arsenic", max_inputs_per_call=2, max_tokens_per_input=3)
    statuses = [
        post(provider, input=texts)[0]
        for texts in (["a"], ["a"], ["has arsenic"], ["a", "b", "c"], ["a b c d e"], [], [""], ["a", "b"])
    ]
    assert statuses == [500, 401, 400, 400, 400, 400, 400, 200]
    assert provider.stats()["calls_by_status"] == {"500": 1, "401": 1, "400": 5, "200": 1}
    assert provider.paid_for(["a", "b"]) == [1, 1]


@pytest.mark.parametrize(("fault", "paid"), [("drop", 0), ("drop_after", 1), ("drop_mid", 1)])
def test_a_dropped_call_is_paid_or_not_as_its_name_says(
    provider: RunningProvider, fault: str, paid: int
) -> None:
    provider.configure(faults=[fault])
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        post(provider, input=["a"])
    assert provider.paid_for(["a"]) == [paid]
    assert provider.stats()["calls_by_status"] == {fault: 1}


def test_a_rate_limit_answers_429_with_its_headers(provider: RunningProvider) -> None:
    provider.configure(tokens_per_minute=3, window_seconds=500)
    assert post(provider, input=["a b"])[0] == 200
    status, headers, _ = post(provider, input=["a b"])
    assert status == 429
    assert 400 < int(headers["retry-after"]) <= 500
    assert headers["x-ratelimit-remaining-tokens"] == "1"
    assert post(provider, input=["a"])[0] == 200


def test_the_windows_slide() -> None:
    ledger = Ledger()
    assert ledger.admit(0.0, 5, 2, 10, 60.0) == 0
    assert ledger.admit(10.0, 5, 2, 10, 60.0) == 0
    assert ledger.admit(20.0, 1, 2, 10, 60.0) == 40.0
    assert ledger.admit(60.0, 6, 2, 10, 60.0) == 10.0
    assert ledger.admit(60.0, 5, 2, 10, 60.0) == 0


def test_rates_of_failure_follow_their_seed(provider: RunningProvider) -> None:
    runs = []
    for _ in range(2):
        provider.configure(fail_rate_500=0.5, seed=7)
        runs.append([post(provider, input=["a"])[0] for _ in range(20)])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 500}


@pytest.mark.parametrize(
    "changes", [{"latency": 3}, {"dimensions": "x"}, {"faults": ["boom"]}, {"base64": "no"}]
)
def test_a_wrong_option_is_refused_and_changes_nothing(
    provider: RunningProvider, changes: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=r"expected|Expected|unknown|Invalid|contains"):
        provider.configure(**changes)
    assert provider.configure().dimensions == 96
    with (
        pytest.raises(ValueError, match=r"expected|Expected|unknown|Invalid|contains"),
        start_provider(**changes),
    ):
        pass


def test_takes_chunked_bodies_pieces_and_pipelined_requests(provider: RunningProvider) -> None:
    body = b'{"model":"m","input":["a"]}'
    chunked = b"POST /v1/embeddings HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + b"".join(
        b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:5], body[5:])
    )
    plain = b"POST /v1/embeddings HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    stream = chunked + b"0\r\n\r\n" + plain + plain
    with socket.create_connection(("127.0.0.1", provider.port), timeout=30) as connection:
        for start in range(0, len(stream), 7):
            connection.sendall(stream[start : start + 7])
        received = b""
        while received.count(b"HTTP/1.1 200") < 3 or not received.endswith(b"}}"):
            piece = connection.recv(65536)
            assert piece
            received += piece
    assert provider.paid_for(["a"]) == [3]


def test_rubbish_on_one_connection_harms_no_other(provider: RunningProvider) -> None:
    for rubbish in (b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1\r\nnocolon\r\n\r\n", b"x" * 70_000):
        with socket.create_connection(("127.0.0.1", provider.port), timeout=30) as connection:
            connection.sendall(rubbish)
            assert connection.recv(65536).startswith(b"HTTP/1.1 400")
    assert post(provider, input=["a"])[0] == 200


def test_ends_with_its_block() -> None:
    with start_provider() as short_lived:
        assert post(short_lived, input=["a"])[0] == 200
    with pytest.raises(ConnectionError):
        post(short_lived, input=["a"])


def test_ends_when_its_parent_is_gone() -> None:
    command = [sys.executable, "-m", "tests.support.provider", "--until-stdin-ends"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdin.close()
        assert process.wait(timeout=30) == 0
