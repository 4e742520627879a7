"""Requests as an enemy writes them: bombs of JSON, addresses that are nobody's business, and HTTP that two readers
would read differently. Each is refused or harmless, and the answer tells nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.adapters.outbound import server as outside
from tests.api.enemy import LEAKS, MIB, originals
from tests.api.raw_http import raw
from tests.support.provider import RunningProvider
from tests.support.serving import Serving, serving
from tests.support.work import DIMENSIONS, stand_in_pipeline

BOMBS = {
    "deep lists": b"[" * 500_000,
    "deep lists, closed": b"[" * 300_000 + b"]" * 300_000,
    "deep objects": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "a long number": b'{"metadata": {"n": ' + b"9" * 100_000 + b"}}",
    "a number beyond floats": b'{"metadata": {"n": 1e99999}}',
    "a number beyond 64 bits": b'{"metadata": {"n": 99999999999999999999999999}}',
    "no number": b'{"metadata": {"n": NaN}}',
    "half a character": b'{"metadata": {"n": "\\ud800"}}',
    "NUL": b'{"metadata": {"n": "\\u0000"}}',
    "NUL in a name": b'{"metadata": {"\\u0000": 1}}',
    "metadata 900 deep": b'{"metadata": ' + b'{"a":' * 900 + b"1" + b"}" * 901,
    "metadata 20,000 deep": b'{"metadata": ' + b'{"a":' * 20_000 + b"1" + b"}" * 20_001,
    "no UTF-8": b'{"metadata": {"n": "\xff"}}',
    "twice": b'{"metadata": {}, "metadata": []}',
    "a list": b"[]",
    "nothing": b"",
    "text": b'"metadata"',
    "too much": b'{"metadata": {"a": "' + b"x" * (3 * MIB) + b'"}}',
}


@pytest.mark.parametrize("bomb", BOMBS)
async def test_json_that_is_a_bomb_is_refused_or_harmless(idle_service: Serving, bomb: str) -> None:
    taken = await idle_service.client.post("/ingestion-jobs", files={"file": ("a.txt", b"words")})
    job = f"/ingestion-jobs/{taken.json()['jobId']}"
    body, typed = BOMBS[bomb], {"Content-Type": "application/json"}
    metadata = body.removeprefix(b'{"metadata": ').removesuffix(b"}") if b'{"metadata": ' in body else body
    upload = {"files": {"file": ("b.txt", b"other words")}, "data": {"metadata": metadata}}
    url = body.replace(b"{", b'{"url": "https://example.com/a", ', 1)
    for response in (
        await idle_service.client.patch(job, content=body, headers=typed),
        await idle_service.client.post("/ingestion-jobs", content=url, headers=typed),
        await idle_service.client.post("/ingestion-jobs", **upload),  # type: ignore[arg-type]
        await idle_service.client.post(
            "/search", content=body.replace(b"{", b'{"query": "a", "mode": "text", ', 1), headers=typed
        ),
        await idle_service.client.put("/budget", content=body, headers=typed),
    ):
        assert response.status_code in {200, 202, 400, 404, 413, 422}, (response.request, response.text[:500])
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/problem+json"
            assert not [leak for leak in LEAKS if leak in response.text], response.text[:500]
    assert (await idle_service.client.get("/ingestion-jobs")).status_code == 200


async def test_addresses_that_are_nobodys_business_are_not_fetched(
    database: str, tmp_path: Path, provider: RunningProvider
) -> None:
    secret = outside.answer(body=b"the cloud's own secret")
    async with (
        serving(database, tmp_path, allowed_hosts="127.0.0.1") as service,
        outside.serving({"/secret": secret}) as inner,
    ):
        targets = {
            "/private": "http://10.0.0.1/secret",
            "/metadata": "http://169.254.169.254/latest/meta-data/",
            "/other": f"http://127.0.0.2:{inner.port}/secret",
            "/six": f"http://[::1]:{inner.port}/secret",
            "/mapped": f"http://[::ffff:127.0.0.2]:{inner.port}/secret",
            "/file": "file:///etc/passwd",
            "/gopher": f"gopher://127.0.0.1:{inner.port}/secret",
        }
        async with outside.serving({path: outside.redirect(to) for path, to in targets.items()}) as public:
            await stand_in_pipeline(service.app, provider.base_url, dimensions=DIMENSIONS)
            urls = [*targets.values(), *(public.url(path) for path in targets)]
            urls += [
                "http://2130706434/",
                "http://0x7f.2/",
                "http://user:pw@10.0.0.1/",
                "http://0.0.0.0/",
                "//x",
                "x",
            ]
            for url in urls:
                response = await service.client.post(
                    "/ingestion-jobs", json={"url": url, "pipeline": "standin"}
                )
                if response.status_code != 202:
                    assert (response.status_code, response.json()["code"]) == (422, "address_refused"), url
                    continue
                job = await service.until(response.json()["jobId"])
                assert (job["status"], job["errorStage"]) == ("failed", "fetching"), (url, job)
                assert len(job["errorMessage"]) > 15, url
                assert "secret" not in job["errorMessage"].replace("/secret", ""), url
        assert inner.requests == []
        assert originals(service) == []


def _get(*lines: str) -> bytes:
    return "\r\n".join(["GET /healthz HTTP/1.1", "Host: localhost", *lines, "", ""]).encode("latin-1")


SMUGGLING = {
    "two lengths": _get("Content-Length: 5", "Content-Length: 6") + b"hello!",
    "a list of lengths": _get("Content-Length: 5, 6") + b"hello!",
    "a length with a sign": _get("Content-Length: +5") + b"hello",
    "a length in hex": _get("Content-Length: 0x5") + b"hello",
    "a negative length": _get("Content-Length: -1"),
    "length and chunks": _get("Content-Length: 4", "Transfer-Encoding: chunked") + b"0\r\n\r\n" + _get(),
    "an unknown coding": _get("Transfer-Encoding: xchunked") + b"0\r\n\r\n" + _get(),
    "chunks, not last": _get("Transfer-Encoding: chunked, identity") + b"0\r\n\r\n" + _get(),
    "two codings": _get("Transfer-Encoding: chunked", "Transfer-Encoding: identity") + b"0\r\n\r\n" + _get(),
    "a blank before the colon": _get("Transfer-Encoding : chunked") + b"0\r\n\r\n" + _get(),
    "a folded line": _get("X: a", " Transfer-Encoding: chunked", "Content-Length : 5") + b"hello",
    "no chunk size": _get("Transfer-Encoding: chunked") + b"z\r\nhello\r\n0\r\n\r\n" + _get(),
    "a chunk size with a sign": _get("Transfer-Encoding: chunked") + b"-5\r\nhello\r\n0\r\n\r\n" + _get(),
    "two hosts": _get("Host: evil.example"),
    "NUL in a header": _get("X: a\0b"),
    "a line break in a header": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n",
    "no version": b"GET /healthz\r\n\r\n",
    "a header without end": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * MIB,
    "headers without end": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 100_000,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
}


@pytest.mark.parametrize("shape", SMUGGLING)
async def test_requests_that_two_readers_would_read_differently_are_refused(
    idle_service: Serving, shape: str
) -> None:
    answer = await raw(idle_service, SMUGGLING[shape])
    assert answer.split(b" ")[1] in {b"400", b"431"}, answer[:300]
    assert answer.count(b"HTTP/1.1 ") == 1, "what came after it was taken for a request"
    assert not [leak for leak in LEAKS if leak.encode() in answer]
    assert (await idle_service.client.get(f"{idle_service.address}/healthz")).status_code == 200
