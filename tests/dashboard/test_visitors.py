"""Who is let in to the dashboard, and whose forms are taken: sessions of keys, roles, tenants, foreign sites."""

from __future__ import annotations

import base64
from urllib.parse import unquote

import pytest

from embedmill.access.keys import Role, revoke_key
from tests.dashboard.visiting import key_of, log_in, token_in
from tests.support.serving import Serving, client_at


async def test_with_keys_a_page_leads_to_the_login_and_from_there_back(idle_service: Serving) -> None:
    secret, _ = await key_of(idle_service, Role.READER)
    async with client_at(idle_service.address) as stranger:
        answer = await stranger.get("/?page=2")
        assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2F%3Fpage%3D2")
        assert (await stranger.get("/", headers={"Accept": "text/event-stream"})).status_code == 401
        wrong = await stranger.post("/login", data={"key": "em_" + "x" * 43, "next": "/?page=2"})
        assert wrong.status_code == 401
        assert "not known" in wrong.text
        right = await stranger.post("/login", data={"key": f" {secret} ", "next": "/?page=2"})
        assert (right.status_code, right.headers["location"]) == (303, "/?page=2")
        cookie = right.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Secure" not in cookie
        assert secret not in cookie
        assert (await stranger.get("/")).status_code == 200, "the client keeps its cookies"
    async with client_at(idle_service.address) as behind_a_proxy:
        answer = await behind_a_proxy.post(
            "/login", data={"key": secret}, headers={"X-Forwarded-Proto": "https"}
        )
        assert "Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    "path", ["//elsewhere.example", "/\\elsewhere.example", "https://elsewhere.example", "/a\nb", ""]
)
async def test_the_login_leads_to_no_other_site(idle_service: Serving, path: str) -> None:
    secret, _ = await key_of(idle_service, Role.READER)
    async with client_at(idle_service.address) as client:
        answer = await client.post("/login", data={"key": secret, "next": path})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")


async def test_a_revoked_key_ends_its_sessions(idle_service: Serving) -> None:
    secret, key_id = await key_of(idle_service, Role.ADMIN)
    await key_of(idle_service, Role.READER)
    async with log_in(idle_service, secret) as client:
        assert (await client.get("/")).status_code == 200
        await revoke_key(idle_service.service.operator, key_id, actor="test")  # type: ignore[arg-type]
        assert (await client.get("/")).status_code == 303


async def test_a_cookie_that_was_made_or_changed_by_others_is_nobodys(idle_service: Serving) -> None:
    secret, _ = await key_of(idle_service, Role.READER)
    async with log_in(idle_service, secret) as client:
        cookie = client.cookies["embedmill_session"]
    whole = bytearray(base64.urlsafe_b64decode(cookie + "=="))
    changed = []
    for place in (0, 7, 20, 30, 60, 87):
        other = bytearray(whole)
        other[place] ^= 1
        changed.append(base64.urlsafe_b64encode(bytes(other)).decode().rstrip("="))
    for forged in [*changed, cookie[:-1], "", "a" * 118, "ä" * 118, cookie + cookie]:
        headers = {"Cookie": f"embedmill_session={forged}".encode("latin-1")}
        async with client_at(idle_service.address) as stranger:
            assert (await stranger.get("/", headers=headers)).status_code == 303, forged  # type: ignore[arg-type]


async def test_an_act_needs_the_token_of_its_session_and_our_origin(idle_service: Serving) -> None:
    secret, _ = await key_of(idle_service, Role.OPERATOR)
    other_secret, _ = await key_of(idle_service, Role.OPERATOR)
    async with (
        log_in(idle_service, secret) as client,
        log_in(idle_service, other_secret) as other,
    ):
        token = token_in((await client.get("/")).text)
        others = token_in((await other.get("/")).text)
        for wrong in ({}, {"form_token": ""}, {"form_token": others}, {"form_token": token + "x"}):
            answer = await client.post("/tenant", data={"tenant": "default", **wrong})
            assert answer.status_code == 403, wrong
            assert "no longer good" in answer.text
        good = {"tenant": "default", "form_token": token}
        foreign = await client.post("/tenant", data=good, headers={"Origin": "https://elsewhere.example"})
        assert foreign.status_code == 403
        assert (await client.post("/tenant", data=good)).status_code == 303
        assert (
            await client.post("/tenant", data=good, headers={"Origin": idle_service.address})
        ).status_code == 303


async def test_without_keys_only_this_machine_gets_in_and_only_by_its_own_forms(
    idle_service: Serving,
) -> None:
    async with client_at(idle_service.address) as client:
        page = await client.get("/")
        assert page.status_code == 200
        assert (await client.get("/", headers={"Host": "evil.example"})).status_code == 403
        assert (await client.post("/tenant", data={"tenant": "default"})).status_code == 403
        good = {"tenant": "default", "form_token": token_in(page.text)}
        assert (await client.post("/tenant", data=good)).status_code == 303
        assert (await client.get("/login")).headers["location"] == "/"


async def test_an_operator_chooses_a_tenant_and_nobody_else_does(idle_service: Serving) -> None:
    await idle_service.service.operator.fetch("INSERT INTO embedmill.tenants (slug) VALUES ('acme'), ('b-b')")
    operator, _ = await key_of(idle_service, Role.OPERATOR)
    admin, _ = await key_of(idle_service, Role.ADMIN)
    async with log_in(idle_service, operator) as client:
        page = await client.get("/")
        assert "<option>acme</option>" in page.text
        token = token_in(page.text)
        for tenant in ("acme", "b-b"):
            answer = await client.post("/tenant", data={"tenant": tenant, "form_token": token})
            assert answer.status_code == 303
            client.cookies.update(answer.cookies)
            page = await client.get("/")
            assert f"<option selected>{tenant}</option>" in page.text
        assert (
            await client.post("/tenant", data={"tenant": "nobody", "form_token": token})
        ).status_code == 404
    async with log_in(idle_service, admin) as client:
        page = await client.get("/")
        assert "acme" not in page.text
        data = {"tenant": "acme", "form_token": token_in(page.text)}
        assert (await client.post("/tenant", data=data)).status_code == 403
        client.cookies.set("embedmill_tenant", "acme")
        assert "acme" not in (await client.get("/")).text


async def test_logging_out_ends_the_session_in_this_browser(idle_service: Serving) -> None:
    secret, _ = await key_of(idle_service, Role.READER)
    async with log_in(idle_service, secret) as client:
        answer = await client.post("/logout", data={"form_token": token_in((await client.get("/")).text)})
        assert 'embedmill_session=""' in answer.headers.get_list("set-cookie")[0]


async def test_errors_are_pages_with_the_same_headers(idle_service: Serving) -> None:
    async with client_at(idle_service.address) as client:
        for path, status in (
            ("/no-such-page", 404),
            ("/static/../app.py", 404),
            ("/static/no.css", 404),
            ("/", 200),
        ):
            answer = await client.get(path)
            assert answer.status_code == status, path
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
        missing = await client.get("/api/v1/no-such-thing")
        assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
        assert (await client.put("/")).status_code == 405


async def test_a_message_is_shown_once_and_as_text(idle_service: Serving) -> None:
    async with client_at(idle_service.address) as client:
        headers = {"Cookie": "embedmill_message=error%20%3Cb%3Eno%3C%2Fb%3E"}
        page = await client.get("/", headers=headers)
        assert "&lt;b&gt;no&lt;/b&gt;" in page.text
        assert 'embedmill_message=""' in unquote(page.headers["set-cookie"])
