"""`embedmill webhook`: added, tested against a real receiver, changed, its deliveries listed and sent again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psycopg
import pytest
from standardwebhooks import Webhook

from tests.support.commands import CommandLine

NOBODY = "00000000-0000-0000-0000-000000000000"


class Receiver:
    """A server that keeps what it got and answers `status`."""

    def __init__(self) -> None:
        self.status = 204
        self.got: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    thread = threading.Thread(target=one.server.serve_forever, args=(0.01,))
    thread.start()
    yield one
    one.server.shutdown()
    thread.join()
    one.server.server_close()


@pytest.fixture
def command(database: str, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "data", database, EMBEDMILL_ALLOWED_HOSTS="127.0.0.1")


def test_a_webhook_is_added_tested_and_removed(command: CommandLine, receiver: Receiver) -> None:
    assert "no webhooks" in command.run("webhook", "list").stdout
    added = command.run("webhook", "add", receiver.url, "--event", "job.completed")
    secret = added.stdout.strip()
    assert secret.startswith("whsec_")
    assert secret not in added.stderr, "standard output has the secret alone, for scripts"
    (one,) = command.json("webhook", "list")
    assert (one["url"], one["event_types"], one["is_active"]) == (receiver.url, ["job.completed"], True)
    assert secret not in command.run("webhook", "list").stdout
    assert command.run("webhook", "test", one["id"]).stdout == "taken: its server answered 204\n"
    headers, body = receiver.got[0]
    assert Webhook(secret).verify(body, headers)["type"] == "test"
    (delivery,) = command.json("webhook", "deliveries", one["id"])
    assert (delivery["status"], delivery["payload"]["type"]) == ("delivered", "test")
    assert "removed" in command.run("webhook", "remove", one["id"]).stdout
    assert command.json("webhook", "list") == []


def test_a_test_call_that_is_not_taken_ends_with_1(command: CommandLine, receiver: Receiver) -> None:
    receiver.status = 500
    made = command.json("webhook", "add", receiver.url)
    assert "not taken: " in command.run("webhook", "test", made["id"], status=1).stdout
    assert command.json("webhook", "test", made["id"], status=1)["status"] == 500


def test_a_new_secret_signs_beside_the_one_before(command: CommandLine, receiver: Receiver) -> None:
    made = command.json("webhook", "add", receiver.url)
    new = command.json("webhook", "rotate-secret", made["id"])
    assert new["secret"] != made["secret"]
    command.run("webhook", "test", made["id"])
    headers, body = receiver.got[0]
    for secret in (made["secret"], new["secret"]):
        Webhook(secret).verify(body, headers)


def test_a_webhook_is_changed_and_what_was_given_up_is_sent_again(
    command: CommandLine, receiver: Receiver, database: str
) -> None:
    made = command.json("webhook", "add", receiver.url)
    with psycopg.connect(database, autocommit=True) as connection:
        for _ in range(3):
            connection.execute("SELECT embedmill.record_event(1, 'job.failed', NULL, NULL, '{}')")
    assert command.run("webhook", "set", made["id"], "--off", "--event", "job.failed").stdout.startswith(
        "off: "
    )
    page = command.json("webhook", "deliveries", made["id"], "--limit", "2")
    rest = command.json("webhook", "deliveries", made["id"], "--after", page[-1]["id"])
    assert [len(page), len(rest)] == [2, 1]
    assert {one["status"] for one in page + rest} == {"failed"}, "switched off, what waited is given up"
    refused = command.run("webhook", "redeliver", page[0]["id"], status=1)
    assert "switch it on first" in refused.stderr
    assert command.run("webhook", "set", made["id"], "--on", "--all-events").stdout.startswith(
        "on: all events"
    )
    assert command.run("webhook", "redeliver", page[0]["id"]).stdout.startswith("1 delivery: ")
    again = command.json("webhook", "redeliver", "--webhook", made["id"], "--failed-within", "1h")
    assert again == {"redelivered": 2}
    assert command.json("webhook", "deliveries", made["id"], "--status", "failed") == []


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["add", "http://10.0.0.1/x"], 1, "not public"),
        (["add", "ftp://example.com"], 1, "http"),
        (["add", "http://127.0.0.1/x", "--event", "job.lost"], 1, "choose from job.completed"),
        (["set", NOBODY], 2, "say what to change"),
        (["set", NOBODY, "--all-events", "--event", "job.failed"], 2, "--all-events stands alone"),
        (["set", NOBODY, "--on"], 1, "there is no webhook"),
        (["test", NOBODY], 1, "there is no webhook"),
        (["remove", NOBODY], 1, "there is no webhook"),
        (["deliveries", NOBODY], 1, "there is no webhook"),
        (["deliveries", NOBODY, "--after", NOBODY], 1, "there is no delivery"),
        (["redeliver"], 2, "name deliveries"),
        (["redeliver", "--webhook", NOBODY], 2, "--failed-within"),
        (["redeliver", NOBODY], 1, "there is no delivery"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(
    command: CommandLine, arguments: list[str], status: int, said: str
) -> None:
    done = command.run("webhook", *arguments, status=status)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
