"""What is asked again, what is not, and what becomes of an answer that is no answer."""

from __future__ import annotations

import io
import socket
from uuid import uuid4

import pytest

from embedmill import Client
from embedmill.client import (
    ApiConflictError,
    ApiError,
    ApiNotFoundError,
    InvalidRequestError,
    NotAllowedError,
    NotAuthenticatedError,
    OverBudgetError,
    ServiceError,
    ServiceUnreachableError,
    TooLargeError,
    TooManyRequestsError,
    UnreadableAnswerError,
)
from embedmill.errors import ConfigurationError, ConflictError, EmbedmillError, NotFoundError
from tests.client.scripted import Says, problem, scripted

ALIVE = Says(200, b'{"status": "ok", "a field of next year": 1}')
LOST = Says(0)


def busy(status: int = 503) -> Says:
    return problem(status, "unavailable", Retry_After="0")


@pytest.mark.parametrize("trouble", [LOST, busy(429), busy(502), busy(503)])
def test_reading_is_tried_again_until_it_succeeds(trouble: Says) -> None:
    with scripted(trouble, trouble, ALIVE) as server, Client(server.address) as client:
        assert client.health().status == "ok"
    assert len(server.asked) == 3


@pytest.mark.parametrize("trouble", [LOST, busy(429), busy(503)])
def test_what_may_have_been_done_is_not_asked_again(trouble: Says) -> None:
    with scripted(trouble, otherwise=ALIVE) as server, Client(server.address) as client:
        with pytest.raises(EmbedmillError):
            client.launch_batch(uuid4())
        server.script.append(trouble)
        with pytest.raises(EmbedmillError):
            client.create_key("ci", "reader")
    assert len(server.asked) == 2


def test_after_the_retries_the_error_is_told_and_none_may_be_wanted() -> None:
    with scripted(otherwise=busy()) as server, Client(server.address, retries=2) as client:
        with pytest.raises(ServiceError) as error:
            client.health()
        assert (error.value.status, error.value.code, error.value.retry_after) == (503, "unavailable", 0.0)
    assert len(server.asked) == 3
    with (
        scripted(LOST) as server,
        Client(server.address, retries=0) as client,
        pytest.raises(ServiceUnreachableError),
    ):
        client.health()
    assert len(server.asked) == 1


def test_a_long_wait_is_told_and_not_waited() -> None:
    answer = problem(429, "too_many_requests", Retry_After="3600")
    with (
        scripted(answer) as server,
        Client(server.address) as client,
        pytest.raises(TooManyRequestsError) as error,
    ):
        client.whoami()
    assert error.value.retry_after == 3600
    assert len(server.asked) == 1


def test_an_upload_is_sent_again_whole_with_the_same_key() -> None:
    underway = problem(409, "request_in_progress", Retry_After="0")
    with (
        scripted(LOST, underway, problem(422, "invalid_request")) as server,
        Client(server.address) as client,
        pytest.raises(InvalidRequestError),
    ):
        client.upload(b"content" * 50_000, name="a.txt")
    assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 1
    assert len({asked.body for asked in server.asked}) == 1
    assert len(server.asked) == 3
    assert b"content" * 50_000 in server.asked[2].body


def test_an_open_file_is_wound_back_and_what_cannot_be_is_sent_once() -> None:
    file = io.BytesIO(b"skipped" + b"x" * 200_000)
    file.seek(7)
    with scripted(LOST, problem(422, "invalid_request")) as server, Client(server.address) as client:
        with pytest.raises(InvalidRequestError):
            client.upload(file, name="a.txt")
        assert len(server.asked) == 2
        assert b"\r\n\r\n" + b"x" * 200_000 + b"\r\n--" in server.asked[1].body
        assert b"skipped" not in server.asked[1].body

    class Pipe(io.RawIOBase):
        left = 3

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            if size == 0 or self.left == 0:
                return b""
            self.left -= 1
            return b"piped"

    with (
        scripted(LOST) as server,
        Client(server.address) as client,
        pytest.raises(ServiceUnreachableError),
    ):
        client.upload(Pipe(), name="a.txt")  # type: ignore[arg-type]
    assert len(server.asked) == 1
    assert server.asked[0].headers["transfer-encoding"] == "chunked"
    assert b"pipedpipedpiped" in server.asked[0].body


def test_a_deletion_whose_answer_was_lost_has_been_done() -> None:
    with scripted(LOST, problem(404, "not_found")) as server, Client(server.address) as client:
        client.delete_webhook(uuid4())
    with (
        scripted(problem(404, "not_found")) as server,
        Client(server.address) as client,
        pytest.raises(ApiNotFoundError),
    ):
        client.delete_webhook(uuid4())


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ApiError),
        (401, NotAuthenticatedError),
        (402, OverBudgetError),
        (403, NotAllowedError),
        (404, ApiNotFoundError),
        (409, ApiConflictError),
        (413, TooLargeError),
        (422, InvalidRequestError),
        (429, TooManyRequestsError),
        (500, ServiceError),
        (507, ServiceError),
    ],
)
def test_each_status_is_an_error_of_its_own(status: int, kind: type[ApiError]) -> None:
    with (
        scripted(problem(status, "some_code")) as server,
        Client(server.address, retries=0) as client,
        pytest.raises(EmbedmillError) as error,
    ):
        client.whoami()
    assert type(error.value) is kind
    assert (error.value.status, error.value.code) == (status, "some_code")
    assert str(error.value) == f"do this instead ({status} some_code)"
    assert isinstance(error.value, NotFoundError) == (status == 404)
    assert isinstance(error.value, ConflictError) == (status == 409)


@pytest.mark.parametrize("body", [b"<html>\xff Bad Gateway</html>", b"", b"[]", b'{"code": 7}'])
def test_a_proxys_page_is_told_as_what_it_is(body: bytes) -> None:
    with (
        scripted(Says(504, body)) as server,
        Client(server.address) as client,
        pytest.raises(ServiceError, match="not the service's own") as error,
    ):
        client.whoami()
    assert error.value.code == "unexpected_answer"
    with (
        scripted(Says(200, body)) as server,
        Client(server.address) as client,
        pytest.raises(UnreadableAnswerError, match="base_url"),
    ):
        client.whoami()


def test_a_redirect_is_not_followed_with_the_key() -> None:
    elsewhere = Says(307, b"", {"Location": "http://127.0.0.1:9/api/v1/whoami"})
    with (
        scripted(elsewhere) as server,
        Client(server.address, "em_secret") as client,
        pytest.raises(ApiError) as error,
    ):
        client.whoami()
    assert error.value.status == 307
    assert server.asked[0].headers["authorization"] == "Bearer em_secret"


def test_a_service_that_does_not_run_is_told_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Client(address, "em_secret", retries=1) as client:
            with pytest.raises(ServiceUnreachableError, match="embedmill up") as error:
                client.whoami()
            assert "em_secret" not in f"{error.value}{client!r}"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8080",
        "ftp://host",
        "http://",
        "http://h/?q",
        "http://u:p@h",
        "http://h/api/v1",
        "http://h:x",
    ],
)
def test_an_address_that_cannot_be_one_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        Client(url)


def test_the_key_comes_from_the_environment_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDMILL_API_KEY", "em_from_environment\n")
    with scripted(otherwise=ALIVE) as server:
        with Client(server.address) as client:
            client.health()
        with Client(server.address + "/", "em_given") as client:
            client.health()
    assert [asked.headers["authorization"] for asked in server.asked] == [
        "Bearer em_from_environment",
        "Bearer em_given",
    ]
    with pytest.raises(ConfigurationError, match="API key"):
        Client(api_key="em_x\r\nX-Other: y")


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_lead_elsewhere_is_refused(name: str) -> None:
    with scripted(otherwise=ALIVE) as server, Client(server.address) as client:
        with pytest.raises(ValueError, match="no name"):
            client.pipeline(name)
        with pytest.raises(ValueError, match="UUID"):
            client.job("../keys")
    assert server.asked == []


def test_files_that_are_none_are_told_before_anything_is_sent(tmp_path: object) -> None:
    with scripted(otherwise=ALIVE) as server, Client(server.address) as client:
        with pytest.raises(FileNotFoundError):
            client.upload("/no/such/file.pdf")
        with pytest.raises(IsADirectoryError, match="folder"):
            client.upload(str(tmp_path))
        with pytest.raises(ValueError, match="name="):
            client.upload(b"bytes without a name")
        with pytest.raises(TypeError, match="'rb'"):
            client.upload(io.StringIO("text"), name="a.txt")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="binary file"):
            client.upload(7)  # type: ignore[arg-type]
        assert client.upload_files([]) == []
    assert server.asked == []
