"""`embedmill queue` as its user sees it: what is listed, what is asked back, what is refused and why."""

from __future__ import annotations

import asyncio
import os
import pwd
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from embedmill.queue.items import Return, Waiting, return_items
from tests.support.commands import CommandLine
from tests.support.queue_rows import claim
from tests.support.work import add_document, app_on, stand_in_pipeline

DEAD = Return(Waiting.PENDING, 100, 0, "provider_unavailable", "answered 503")
LATER = Return(Waiting.PENDING, 1, 3_600_000, "provider_unavailable", "answered 500")


@pytest.fixture
def command(database: str, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "data", database)


@pytest.fixture
def batch(database: str, tmp_path: Path) -> UUID:
    """Four documents: the first has failed, the second waits out a failure, the third is in work."""
    chosen = uuid4()

    async def make() -> None:
        async with app_on(database, tmp_path / "data") as app:
            pipeline = await stand_in_pipeline(app, "http://127.0.0.1:9/v1", dimensions=16)
            for n in range(4):
                await add_document(app, pipeline, f"/srv/{n}.txt", [f"text {n}"], chosen)
            for how in (DEAD, LATER):
                held = await claim(app.database, pipeline.generation.id, items=1)
                await return_items(app.database, held, how)
            await claim(app.database, pipeline.generation.id, items=1)

    asyncio.run(make())
    return chosen


def test_listings_show_what_is_asked_for(command: CommandLine, batch: UUID) -> None:
    live = command.json("queue", "list")
    assert [item["status"] for item in live] == ["pending", "processing", "pending"]
    assert live[0]["error_message"] == "answered 500"
    (failed,) = command.json("queue", "list", "--status", "failed", "--source", "/srv/*")
    assert (failed["source_id"], failed["pipeline"], failed["ended_at"] is None) == (
        "/srv/0.txt",
        "standin",
        False,
    )
    said = command.run("queue", "list", "--limit", "2").stdout
    assert f"more: --after {live[1]['id']}" in said
    assert "due in" in said
    assert command.json("queue", "list", "--after", str(live[1]["id"])) == live[2:]
    assert command.run("queue", "list", "--priority", "low").stdout == "nothing matches\n"


def test_an_item_and_a_batch_are_shown_whole(command: CommandLine, batch: UUID) -> None:
    (failed,) = command.json("queue", "list", "--status", "failed")
    shown = command.json("queue", "show", str(failed["id"]))
    assert shown["retry_count"] == 100
    assert shown["dead_letters"][0]["reason"] == "provider_unavailable"
    assert "lease_token" not in command.json("queue", "show", str(failed["id"] + 2))
    assert "[provider_unavailable]" in command.run("queue", "show", str(failed["id"])).stdout
    progress = command.json("queue", "show", str(batch))
    assert (progress["total"], progress["failed"], progress["processing"], progress["pending"]) == (
        4,
        1,
        1,
        2,
    )
    assert "25% ended" in command.run("queue", "show", str(batch)).stdout
    assert [one["batch_id"] for one in command.json("queue", "batches")] == [str(batch)]
    assert str(batch) in command.run("queue", "batches").stdout


def test_why_an_item_waits_is_told_in_sentences(command: CommandLine, batch: UUID) -> None:
    waiting, held, ready = (item["id"] for item in command.json("queue", "list"))
    (first, *_) = command.json("queue", "explain", str(waiting))
    assert first["reason"] == "backoff"
    assert 3000 < first["seconds"] <= 3601
    said = command.run("queue", "explain", str(waiting)).stdout
    assert "1 of 4 attempts failed" in said
    assert "\n    until " in said
    assert command.json("queue", "explain", str(held))[0]["reason"] == "processing"
    command.run("queue", "pause", "-p", "standin")
    assert command.json("queue", "explain", str(ready))[0]["reason"] == "paused"
    assert "paused: standin" in command.run("status").stdout


def test_cancelling_says_what_it_did_and_what_it_could_not(command: CommandLine, batch: UUID) -> None:
    waiting, held, _ = (item["id"] for item in command.json("queue", "list"))
    dry = command.run("queue", "cancel", "--batch", str(batch), "--dry-run").stdout
    assert "would cancel 3 items: 2 pending, 1 processing" in dry
    assert len(command.json("queue", "list")) == 3
    done = command.run("queue", "cancel", str(held), "1", "999", status=1).stdout
    assert "cancelled 1 item: 1 processing" in done
    assert "item 1: it has ended already: failed" in done
    assert "item 999: there is none" in done
    told = command.json("queue", "cancel", "--all")
    assert (told["matched"], told["done"]) == ({"pending": 2}, {"pending": 2})
    assert command.run("queue", "cancel", "--all").stdout == "nothing to cancel\n"
    (newest, _) = command.json("config", "log")
    assert newest["action"] == "queue.cancel"
    assert newest["actor"].startswith(f"{pwd.getpwuid(os.getuid()).pw_name}@")
    assert (
        command.json("queue", "list", "--error", "cancelled by", "--status", "cancelled")[0]["id"] > waiting
    )


def test_retrying_takes_failed_items_up_and_ends_backoff(command: CommandLine, batch: UUID) -> None:
    dry = command.run("queue", "retry", "--all", "--dry-run").stdout
    assert "would retry 2 items: 1 waiting out a failure, 1 failed" in dry
    _, held, ready = (item["id"] for item in command.json("queue", "list"))
    said = command.run("queue", "retry", str(held), str(ready), status=1).stdout
    assert "a worker is at it" in said
    assert "it waits for a worker already" in said
    done = command.run("queue", "retry", "--batch", str(batch)).stdout
    assert "1 item may be taken now instead of later" in done
    assert "retried 1 item of 1 document: 1 new item" in done
    assert command.json("queue", "dead-letters") == []


def test_dead_letters_are_listed_without_a_verb_and_dealt_with(command: CommandLine, batch: UUID) -> None:
    (letter,) = command.json("queue", "dead-letters")
    assert command.json("queue", "dead-letters", "--reason", "crash") == []
    assert "answered 503" in command.run("queue", "dead-letters", "list").stdout
    assert "1 open dead letter:" in command.run("status").stdout
    done = command.run("queue", "dead-letters", "discard", str(letter["id"]), "99", status=1).stdout
    assert "discarded 1 dead letter" in done
    assert "dead letter 99: there is none" in done
    refused = command.run("queue", "dead-letters", "retry", str(letter["id"]), status=1).stdout
    assert "it was discarded already" in refused


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["queue", "cancel"], 2, "which ones?"),
        (["queue", "retry", "--dry-run"], 2, "which ones?"),
        (["queue", "dead-letters", "discard"], 2, "which ones?"),
        (["queue", "cancel", "--all", "--priority", "low"], 2, "--all stands alone"),
        (
            ["queue", "cancel", "--status", "completed"],
            2,
            "cancel is for pending, processing or rate_limited",
        ),
        (["queue", "retry", "--status", "processing", "--all"], 2, "--all stands alone"),
        (["queue", "list", "--older-than", "soon"], 2, "a time such as 90s, 10m, 2h or 1d"),
        (["queue", "list", "--after", "-1"], 2, "not in the range"),
        (["queue", "list", "--error", "\udcff"], 2, "is no UTF-8"),
        (["queue", "show", "seven"], 2, "the number of an item, or the UUID of a batch"),
        (["queue", "show", "99999999999999999999999"], 2, "not in the range"),
        (["queue", "show", "7"], 1, "there is no item 7"),
        (["queue", "explain", "7"], 1, "there is no item 7"),
        (["queue", "show", "00000000-0000-0000-0000-000000000007"], 1, "there is no batch"),
        (["queue", "list", "-p", "nobody"], 1, "there is no pipeline 'nobody'; there are: default"),
        (["queue", "pause", "-p", "nobody"], 1, "there is no pipeline"),
    ],
)
def test_a_mistake_is_told_with_the_next_step(
    command: CommandLine, arguments: list[str], status: int, said: str
) -> None:
    done = command.run(*arguments, status=status)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_another_tenant_sees_and_changes_nothing(
    command: CommandLine, batch: UUID, database: str, tmp_path: Path
) -> None:
    command.run("tenant", "create", "other")
    other = CommandLine(tmp_path / "data", database, EMBEDMILL_TENANT="other")
    assert other.json("queue", "list") == []
    assert other.json("queue", "batches") == []
    assert other.run("queue", "cancel", "--all").stdout == "nothing to cancel\n"
    for unseen in ("1", str(batch)):
        assert "there is no" in other.run("queue", "show", unseen, status=1).stderr
    assert other.json("queue", "cancel", "2", status=1)["not_possible"] != {}
    assert len(command.json("queue", "list")) == 3
