"""Uploads as an enemy sends them: each ends in a clear 4xx or in a failed job that says why, and disturbs nothing else.
Raw bytes on real sockets, where no client would send them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from embedmill.database.pipelines import Pipeline
from embedmill.logs import configure_logs
from embedmill.settings import Settings
from tests.adapters.outbound import server as outside
from tests.api.conftest import DIMENSIONS
from tests.api.raw_http import head, raw, sent_until_answered
from tests.support.hostile import HOSTILE
from tests.support.prose import paragraphs
from tests.support.provider import RunningProvider
from tests.support.serving import Serving, serving
from tests.support.work import stand_in_pipeline

_LEAKS = ("Traceback", "/tmp/", "/originals/", "site-packages", ".py", "SELECT ", "psycopg", "tenants/")  # noqa: S108
MIB = 1024 * 1024
BOUNDARY = b"----enemy"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}
OPENING = b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
CLOSING = b"\r\n--" + BOUNDARY + b"--\r\n"


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Unconfigured, an error is logged with all that stands in its frames, which takes minutes."""
    configure_logs(Settings())


@pytest.fixture
async def small(database: str, tmp_path: Path) -> AsyncIterator[Serving]:
    """A service that takes files of 4 MiB and requests of 16."""
    async with serving(database, tmp_path, works=False, max_file_mb=4.0, max_request_mb=16.0) as one:
        yield one


def originals(service: Serving) -> list[Path]:
    folder = service.service.settings.data_dir / "originals"
    return [path for path in folder.rglob("*") if path.is_file()]


async def jobs(service: Serving) -> list[dict[str, Any]]:
    return list((await service.client.get("/ingestion-jobs?limit=500")).json()["jobs"])


async def assert_untouched(service: Serving) -> None:
    """Nothing was taken in, and the next upload is."""
    assert await jobs(service) == []
    async with asyncio.timeout(30):
        while originals(service):
            await asyncio.sleep(0.02)
    taken = await service.client.post("/ingestion-jobs", files={"file": ("good.txt", b"good words")})
    assert taken.status_code == 202
    assert len(originals(service)) == 1


async def test_every_hostile_file_ends_clearly_and_disturbs_no_other(
    database: str, tmp_path: Path, provider: RunningProvider
) -> None:
    async with serving(database, tmp_path, parse_seconds=20.0, parse_memory_mb=1024) as service:
        await stand_in_pipeline(service.app, provider.base_url, dimensions=DIMENSIONS)
        taken: dict[str, str] = {}
        refused = []
        for name, (make, _) in HOSTILE.items():
            response = await service.client.post(
                "/ingestion-jobs",
                files={"file": (name, make())},
                data={"pipeline": "standin", "sourceId": name},
            )
            assert response.status_code in {202, 413, 422}, (name, response.text)
            if response.status_code == 202:
                taken[name] = response.json()["jobId"]
            else:
                refused.append(name)
        good = await service.upload("good.txt", paragraphs(3).encode(), pipeline="standin", autoLaunch="true")
        assert (await service.until(good["jobId"], seconds=240))["status"] == "completed"
        for name, job_id in taken.items():
            job = await service.until(job_id, "chunk_preview_ready", seconds=240)
            if HOSTILE[name][1]:
                assert (job["status"], job["errorStage"]) == ("failed", "parsing"), (name, job)
                assert len(job["errorMessage"]) > 15, (name, job)
                assert not [leak for leak in _LEAKS if leak in job["errorMessage"]], (name, job)
            else:
                assert job["status"] == "chunk_preview_ready", (name, job)
        assert set(refused) <= {"empty.txt", "empty.pdf"}
        after = await service.upload("after.txt", paragraphs(3, seed=2).encode(), pipeline="standin")
        assert (await service.until(after["jobId"], "chunk_preview_ready"))["status"] == "chunk_preview_ready"


async def test_two_gigabytes_that_say_so_are_refused_before_a_byte_is_read(small: Serving) -> None:
    answer = await raw(small, head("POST", {**FORM, "Content-Length": str(2 << 30)}) + OPENING)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"too_large"' in answer
    await assert_untouched(small)


@pytest.mark.parametrize("lie", [None, 15 * MIB])
async def test_two_gigabytes_that_do_not_say_so_are_refused_long_before_their_end(
    small: Serving, lie: int | None
) -> None:
    """In chunks, of which nobody knows how many come; or with a length that is a lie."""

    def body() -> Any:
        block = bytes(MIB)
        if lie is None:
            yield b"%x\r\n%s\r\n" % (len(OPENING), OPENING)
            for _ in range(2048):
                yield b"100000\r\n" + block + b"\r\n"
        else:
            yield OPENING
            for _ in range(2048):
                yield block

    headers = {"Transfer-Encoding": "chunked"} if lie is None else {"Content-Length": str(lie)}
    answer, sent = await sent_until_answered(small, head("POST", {**FORM, **headers}), body())
    # What is no chunk any more (the rest of a lie) is no request either.
    # Where the connection is cut under what is still being sent, the answer may be lost with it.
    assert not answer or answer.split(b" ")[1] in {b"413", b"400"}, answer[:300]
    assert sent < 200 * MIB
    await assert_untouched(small)


async def test_one_file_too_large_among_others_fails_alone(small: Serving) -> None:
    files = [
        ("file", ("good.txt", b"good")),
        ("file", ("large.txt", bytes(5 * MIB))),
        ("file", ("too.txt", b"too")),
    ]
    taken = (await small.client.post("/ingestion-jobs", files=files)).json()
    assert [job["status"] for job in taken["jobs"]] == ["staged", "failed", "staged"]
    assert "MiB" in taken["jobs"][1]["errorMessage"]
    assert len(originals(small)) == 2


async def test_one_file_that_is_too_large_is_refused(small: Serving) -> None:
    response = await small.client.post("/ingestion-jobs", files={"file": ("large.txt", bytes(5 * MIB))})
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    await assert_untouched(small)


@pytest.mark.parametrize("said", [10_000, 20])
async def test_a_length_that_is_not_that_of_the_body_takes_nothing_in(
    idle_service: Serving, said: int
) -> None:
    """Larger: the client goes away before that. Smaller: the form breaks off, and the rest is no request."""
    body = OPENING + b"words" + CLOSING
    answer = await raw(idle_service, head("POST", {**FORM, "Content-Length": str(said)}) + body, ends=True)
    assert b"HTTP/1.1 202" not in answer
    if said == 20:
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") <= 2
    await assert_untouched(idle_service)


@pytest.mark.parametrize("after", [b"", OPENING, OPENING + b"x" * MIB])
async def test_a_client_that_goes_away_in_the_middle_leaves_nothing(
    idle_service: Serving, after: bytes
) -> None:
    await raw(idle_service, head("POST", {**FORM, "Content-Length": str(3 * MIB)}) + after, ends=True)
    await assert_untouched(idle_service)


async def test_names_that_lead_elsewhere_stay_where_they_are(idle_service: Serving, tmp_path: Path) -> None:
    before = {path for path in tmp_path.parent.rglob("*") if path.is_file()}
    names = {
        "../../../../etc/passwd": "passwd",
        "..\\..\\windows\\system32\\evil.dll": "evil.dll",
        "/etc/shadow": "shadow",
        "C:\\boot.ini": "boot.ini",
        "..": "unnamed",
        "....//....//x.txt": "x.txt",
        "%2e%2e%2fx.txt": "%2e%2e%2fx.txt",
        "a\u202etxt.exe": "atxt.exe",
        "x" * 5000 + ".txt": "x" * 251 + ".txt",
        "~/.ssh/authorized_keys": "authorized_keys",
        "$(touch evil).txt": "$(touch evil).txt",
    }
    for n, (name, shown) in enumerate(names.items()):
        taken = await idle_service.client.post("/ingestion-jobs", files={"file": (name, b"words %d" % n)})
        assert taken.status_code == 202, (name, taken.text)
        assert taken.json()["name"] == shown
    kept = originals(idle_service)
    assert len(kept) == len(names)
    new = {path for path in tmp_path.parent.rglob("*") if path.is_file()} - before - set(kept)
    assert {path.name for path in new} <= {"pepper"}


async def test_forms_that_are_too_much_or_nothing_are_refused(idle_service: Serving) -> None:
    def fields(count: int, size: int = 1) -> dict[str, bytes]:
        return {f"f{n}": b"x" * size for n in range(count)}

    words = {"file": ("a.txt", b"words")}
    many = [("file", (f"{n}.txt", b"words")) for n in range(150)]
    for sent, status, code in (
        ({"files": words, "data": fields(10_000)}, 413, "too_many_fields"),
        ({"files": words, "data": {"metadata": b"x" * 100_000}}, 413, "field_too_large"),
        ({"files": many}, 413, "too_many_files"),
        ({"files": {"pipeline": (None, "default")}}, 422, "invalid_request"),
        ({"files": {"file": ("", b"")}}, 422, "invalid_request"),
        ({"files": words, "data": {"metadata": b"\xff\xfe"}}, 400, "field_not_text"),
        ({"files": words, "data": {"pipeline": ["default", "default"]}}, 422, "invalid_request"),
        ({"files": words, "data": {"chunkTokens": "64", "chunkOverlap": "63"}}, 422, "invalid_request"),
        ({"files": words, "data": {"batchId": "' OR 1=1"}}, 422, "invalid_request"),
        ({"files": words, "data": {"budgetUsd": "NaN"}}, 422, "invalid_request"),
        ({"files": words, "data": {"sourceId": "a\x00b"}}, 400, "field_not_text"),
        ({"files": words, "headers": {"Idempotency-Key": "k" * 300}}, 422, "invalid_request"),
        ({"data": {"url": "https://example.com"}}, 415, "unsupported_media_type"),
    ):
        response = await idle_service.client.post("/ingestion-jobs", **sent)  # type: ignore[arg-type]
        assert (response.status_code, response.json()["code"]) == (status, code), (list(sent), response.text)
    await assert_untouched(idle_service)


async def test_content_types_that_lie_are_refused(idle_service: Serving) -> None:
    body = OPENING + b"words" + CLOSING
    for content_type, statuses in (
        ("text/plain", {415}),
        ("application/xml", {415}),
        ("application/x-www-form-urlencoded", {415}),
        ("multipart/mixed; boundary=----enemy", {415}),
        ("multipart/form-data", {400}),
        ("multipart/form-data; boundary=", {400}),
        ("multipart/form-data; boundary=another", {400}),
        ("multipart/form-data; boundary=" + "x" * 5000, {400}),
        ("application/json", {422}),
        ("application/json; charset=utf-7", {422}),
        ("", {415, 422}),
        (",,;;", {415}),
    ):
        response = await idle_service.client.post(
            "/ingestion-jobs", content=body, headers={"Content-Type": content_type}
        )
        assert response.status_code in statuses, (content_type, response.text)
        assert response.headers["content-type"] == "application/problem+json"
    await assert_untouched(idle_service)


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
            assert not [leak for leak in _LEAKS if leak in response.text], response.text[:500]
    assert (await idle_service.client.get("/ingestion-jobs")).status_code == 200


async def test_a_slow_upload_holds_up_nobody(service: Serving, pipeline: Pipeline) -> None:
    body = OPENING + b"slow words, one by one" + CLOSING
    place = service.address.removeprefix("http://").split(":")
    slow = [await asyncio.open_connection(place[0], int(place[1])) for _ in range(50)]
    for _, writer in slow:
        writer.write(head("POST", {**FORM, "Content-Length": str(len(body))}) + body[:60])
        await writer.drain()
    good = await service.upload("good.txt", paragraphs(2).encode(), pipeline="standin", autoLaunch="true")
    assert (await service.until(good["jobId"]))["status"] == "completed"
    for reader, writer in slow[:2]:
        for at in range(60, len(body), 7):
            writer.write(body[at : at + 7])
            await writer.drain()
        assert (await reader.readline()).startswith(b"HTTP/1.1 ")
    for _, writer in slow:
        writer.close()


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
    assert not [leak for leak in _LEAKS if leak.encode() in answer]
    assert (await idle_service.client.get(f"{idle_service.address}/healthz")).status_code == 200
