"""Who is let in: nobody needs a key while there is none, and then only at this machine and from no other site; once
there is one, everybody does. Over real sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import psycopg
import pytest

from embedmill.access.keys import Role, create_key, revoke_key
from embedmill.api.server import listen
from embedmill.errors import ConfigurationError
from embedmill.service import open_service
from embedmill.settings import Settings
from tests.support.serving import Serving, serving


async def get(service: Serving, path: str = "/whoami", **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await service.client.get(path, headers=named)


async def test_without_keys_whoever_sits_here_may_do_everything(idle_service: Serving) -> None:
    answer = (await get(idle_service)).json()
    assert (answer["role"], answer["keyId"], answer["tenant"]) == ("operator", None, "default")


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "127.0.0.1", "127.0.0.1:80", "127.8.9.1", "[::1]", "[::1]:8080"]
)
async def test_without_keys_the_names_of_this_machine_are_good(idle_service: Serving, host: str) -> None:
    assert (await get(idle_service, Host=host)).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil-localhost",
        "localhost@evil.example",
        "192.168.1.5",
        "0.0.0.0",  # noqa: S104
        "[::]",
        "[::ffff:8.8.8.8]",
        "127.0.0.1, evil.example",
        "2130706433x",
    ],
)
async def test_without_keys_a_foreign_name_that_leads_here_is_refused(
    idle_service: Serving, host: str
) -> None:
    """DNS rebinding: the page of some site whose name was pointed at this machine."""
    refused = await get(idle_service, Host=host)
    assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
    assert refused.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost:1",
        "http://127.0.0.1",
        "http://evil.example:{port}",
        "",
    ],
)
async def test_without_keys_no_page_of_another_site_may_act(idle_service: Serving, origin: str) -> None:
    """What a browser sends by itself: a form, or a fetch that needs no leave."""
    port = idle_service.address.rpartition(":")[2]
    headers = {"Origin": origin.replace("{port}", port)}
    forms: list[dict[str, Any]] = [
        {"files": {"file": ("a.txt", b"words")}},
        {"content": b'{"url": "https://example.com/a.txt"}', "headers": {"Content-Type": "text/plain"}},
    ]
    for form in forms:
        sent = {**form, "headers": {**form.get("headers", {}), **headers}}
        refused = await idle_service.client.post("/ingestion-jobs", **sent)
        assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed"), origin
    listed = (await idle_service.client.get("/ingestion-jobs")).json()
    assert listed["jobs"] == []
    preflight = await idle_service.client.request(
        "OPTIONS", "/ingestion-jobs", headers={**headers, "Access-Control-Request-Method": "POST"}
    )
    assert not [name for name in preflight.headers if name.lower().startswith("access-control")]


async def test_without_keys_a_page_of_the_service_itself_may_act(idle_service: Serving) -> None:
    taken = await idle_service.client.post(
        "/ingestion-jobs", files={"file": ("a.txt", b"words")}, headers={"Origin": idle_service.address}
    )
    assert taken.status_code == 202, taken.text


async def test_once_there_is_a_key_it_is_needed_by_everybody_from_the_first_request_on(
    database: str, tmp_path: Path
) -> None:
    async with serving(database, tmp_path, works=False) as first:
        await first.client_of(Role.READER)
    # A service that has just started and has not looked yet: nobody slips in while it asks the database.
    async with serving(database, tmp_path, works=False) as second:
        answers = await asyncio.gather(*(get(second) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {401}
        for answer in answers:
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["code"] == "not_authenticated"


async def test_the_first_key_closes_the_door_behind_itself(idle_service: Serving) -> None:
    assert (await get(idle_service)).status_code == 200
    await idle_service.client_of(Role.READER)
    async with asyncio.timeout(30):
        while (await get(idle_service)).status_code != 401:
            await asyncio.sleep(0.05)


async def test_a_revoked_and_an_expired_key_are_refused_at_once(idle_service: Serving) -> None:
    service = idle_service.service
    admin = await idle_service.client_of(Role.ADMIN)
    made = (await admin.post("/keys", json={"name": "short", "role": "reader"})).json()
    short = {"Authorization": f"Bearer {made['secret']}"}
    assert (await idle_service.client.get("/whoami", headers=short)).status_code == 200
    assert (await admin.delete(f"/keys/{made['key']['id']}")).json()["state"] == "revoked"
    refused = await idle_service.client.get("/whoami", headers=short)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    brief = await create_key(
        service.operator, service.pepper, tenant="default", role=Role.READER, name="brief",
        expires_in_seconds=3600, actor="test",
    )  # fmt: skip
    headers = {"X-API-Key": brief.secret}
    assert (await idle_service.client.get("/whoami", headers=headers)).status_code == 200
    await service.operator.fetch(
        "UPDATE embedmill.api_keys SET expires_at = clock_timestamp() WHERE id = %s", (brief.key.id,)
    )
    assert (await idle_service.client.get("/whoami", headers=headers)).status_code == 401


async def test_a_stream_ends_when_its_key_is_revoked(
    idle_service: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedmill.api.streaming.SILENCE_SECONDS", 0.0)
    client = await idle_service.client_of(Role.READER)
    key_id = (await client.get("/whoami")).json()["keyId"]
    async with asyncio.timeout(30), client.stream("GET", "/events") as response:
        lines = response.aiter_lines()
        assert await anext(lines) == "retry: 2000"
        await revoke_key(idle_service.service.operator, key_id, actor="test")
        async for _ in lines:
            pass  # it ends


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer",
        "Basic ZW06ZW0=",
        "Bearer em_",
        "Bearer em_" + "a" * 43,
        "Bearer em_" + "a" * 100_000,
        "Bearer ' OR 1=1 --",
        "Bearer em_\u00e4\u00f6",
        "em_" + "a" * 43,
        "Bearer Bearer {key}",
        "Bearer {key}x",
        "Bearer {key},",
        "Token {key}",
        "{key}",
    ],
)
async def test_what_is_no_key_opens_nothing_and_is_not_told_back(
    idle_service: Serving, authorization: str
) -> None:
    client = await idle_service.client_of(Role.ADMIN)
    key = client.headers["authorization"].removeprefix("Bearer ")
    given = authorization.replace("{key}", key).encode("latin-1")
    response = await idle_service.client.get("/whoami", headers=[(b"Authorization", given)])
    assert response.status_code in {400, 401, 431}, response.text
    shown = f"{response.headers} {response.text}"
    assert key not in shown
    assert "aaaa" not in shown


async def test_a_key_counts_in_its_header_only_and_never_stands_in_an_answer(idle_service: Serving) -> None:
    client = await idle_service.client_of(Role.ADMIN)
    key = client.headers["authorization"].removeprefix("Bearer ")
    for name in ("key", "api_key", "apikey", "token", "access_token", "Authorization", "X-API-Key"):
        refused = await idle_service.client.get("/whoami", params={name: key})
        assert refused.status_code == 401, name
        assert key not in refused.text
        refused = await idle_service.client.get("/whoami", headers={"Cookie": f"{name}={key}"})
        assert refused.status_code == 401, name
    # A key in the wrong place, by somebody who may come in: not told back either.
    for path, sent in (
        (f"/ingestion-jobs/{key}", {}),
        (f"/embedding-jobs/{key}", {}),
        (f"/webhooks/{key}", {}),
        ("/ingestion-jobs", {"params": {"cursor": key}}),
        ("/ingestion-jobs", {"params": {"limit": key}}),
        ("/embedding-jobs", {"params": {"tenantId": key}}),
        ("/usage", {"params": {"since": key}}),
        ("/events", {"headers": {"Last-Event-ID": key[:50]}}),
    ):
        response = await client.get(path, **sent)
        assert response.status_code >= 400, path
        assert key not in f"{response.headers} {response.text}", path
    listed = await client.get("/keys")
    assert key not in listed.text
    assert key[:11] in listed.text


async def test_two_headers_with_keys_are_not_taken_for_one(idle_service: Serving) -> None:
    reader = (await idle_service.client_of(Role.READER)).headers["authorization"]
    admin = (await idle_service.client_of(Role.ADMIN)).headers["authorization"]
    # A wrong Authorization is not mended by a right X-API-Key.
    response = await idle_service.client.get(
        "/whoami", headers={"Authorization": "Bearer no", "X-API-Key": admin.removeprefix("Bearer ")}
    )
    assert response.status_code == 401
    both = await idle_service.client.get(
        "/whoami", headers={"Authorization": reader, "X-API-Key": admin.removeprefix("Bearer ")}
    )
    assert both.json()["role"] == "reader"


async def test_too_many_requests_are_told_when_to_come_again(idle_service: Serving) -> None:
    client = await idle_service.client_of(Role.READER)
    await idle_service.service.operator.fetch("UPDATE embedmill.tenants SET requests_per_minute = 5")
    answers = [await client.get("/whoami") for _ in range(12)]
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    assert 1 <= statuses.count(200) <= 6
    last = answers[-1]
    assert last.json()["code"] == "too_many_requests"
    assert 1 <= int(last.headers["retry-after"]) <= 60
    # Another tenant is not held up by it, nor is whoever asks whether we live.
    await idle_service.service.operator.fetch("INSERT INTO embedmill.tenants (slug) VALUES ('other')")
    other = await idle_service.client_of(Role.READER, "other")
    assert (await other.get("/whoami")).status_code == 200
    assert (await other.get(f"{idle_service.address}/healthz")).status_code == 200


async def test_others_are_not_served_before_there_is_a_key(database: str, tmp_path: Path) -> None:
    settings = Settings(database_url=database, data_dir=tmp_path)
    async with serving(database, tmp_path, works=False) as one, open_service(settings, database) as service:
        for host in ("0.0.0.0", "::", ""):  # noqa: S104
            with pytest.raises(ConfigurationError, match="no API key yet"):
                await listen(service, host, 0)
        made = await create_key(
            service.operator, service.pepper, tenant="default", role=Role.READER, name="a",
            expires_in_seconds=None, actor="test",
        )  # fmt: skip
        listener = await listen(service, "0.0.0.0", 0)  # noqa: S104
        running = asyncio.create_task(listener.run())
        port = listener.address.rpartition(":")[2]
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False) as client:
            assert (await client.get("/whoami")).status_code == 401
            headers = {"Authorization": f"Bearer {made.secret}", "Host": "mill.example"}
            assert (await client.get("/whoami", headers=headers)).status_code == 200
            # Keys are needed there also when the last one is gone.
            await revoke_key(service.operator, made.key.id, actor="test")
            assert (await client.get("/whoami")).status_code == 401
        listener.stop()
        await running
        assert one.address


async def test_a_key_made_under_another_pepper_lets_nobody_in(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path / "one", works=False) as one:
        client = await one.client_of(Role.ADMIN)
        key = client.headers["authorization"]
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT to_jsonb(k)::text FROM embedmill.api_keys k").fetchone()
    assert row is not None
    assert key.removeprefix("Bearer ") not in row[0]
    hmac = msgspec.json.decode(row[0])["key_hmac"].removeprefix("\\x")
    async with serving(database, tmp_path / "two", works=False) as two:
        for presented in (key, f"Bearer {hmac}", f"Bearer em_{hmac[:43]}"):
            assert (await get(two, Authorization=presented)).status_code == 401
