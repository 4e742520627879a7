"""`embedmill shards`: feeds, and streams with good and bad lines, slow ones, interrupted ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedmill.sources.shard_stream import BATCH_LINES
from tests.support.commands import EMBEDMILL, CommandLine


@pytest.fixture
def command(database: str, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "data", database)


def start_import(command: CommandLine, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [EMBEDMILL, "shards", "import", "--jsonl", "-", *arguments],
        env=command.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def imported(command: CommandLine, lines: bytes, *arguments: str, status: int = 0) -> tuple[str, str]:
    with start_import(command, *arguments) as process:
        out, err = process.communicate(lines, timeout=120)
    assert process.returncode == status, err
    return out.decode(), err.decode()


def shards_of(url: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(
            "SELECT s.shard_id, s.version, s.content FROM embedmill.shards s WHERE s.deleted_at IS NULL ORDER BY 1"
        ).fetchall()


def line(shard_id: str, **said: Any) -> bytes:
    return json.dumps({"shardId": shard_id, **said}).encode() + b"\n"


def test_feeds_are_made_shown_changed_paused_and_removed(command: CommandLine) -> None:
    assert command.json("shards", "list") == []
    assert "the first PUT of a shard makes one" in command.run("shards", "list").stdout
    made = command.json(
        "shards", "create", "articles", "--template", "$title\\n\\n$body", "--priority", "low"
    )
    assert (made["template"], made["priority"], made["pipeline"]) == ("$title\n\n$body", "low", "default")
    assert "already: `embedmill shards alter`" in command.run("shards", "create", "articles", status=1).stderr
    assert "lone $" in command.run("shards", "create", "others", "--template", "$ 5", status=1).stderr
    assert command.json("shards", "alter", "articles", "--priority", "high")["template"] == "$title\n\n$body"
    assert command.json("shards", "alter", "articles", "--template", "")["template"] is None
    assert command.run("shards", "pause", "articles").stdout == "articles is paused\n"
    assert "paused" in command.run("shards", "list").stdout
    assert command.run("shards", "resume", "articles").stdout == "articles is read again\n"
    said = command.run("shards", "show", "articles").stdout
    assert "in the pipeline default, active, priority high" in said
    assert (
        "there is no shard type 'nothing'; there are: articles"
        in command.run("shards", "show", "nothing", status=1).stderr
    )
    removed = command.json("shards", "remove", "articles", "--yes")
    assert removed == {"documents_kept": 0, "documents_deleted": 0}


def test_a_stream_with_bad_lines_is_read_to_its_end(command: CommandLine, database: str) -> None:
    lines = [
        line("a", content="Wheat.", version=2),
        b"{this is no JSON\n",
        b"\n",
        line("b", content="Rye.", shardTypeId="others"),
        line("c"),
        b'{"shardId": "d", "content": "half \\ud800"}\n',
        b"\xff\xfe\n",
        line("a", content="Older wheat.", version=1),
        b"[1]\r\n",
        line("e", operation="delete", version=3),
        line("f", fields={"title": "Oats", "n": 1}, metadata={"x": None}).rstrip(b"\n"),
    ]
    out, err = imported(command, b"".join(lines), "--type", "articles", status=1)
    assert out == ("11 lines: 4 applied, 1 ignored (a newer version stands), 1 rejected, 4 not understood\n")
    told = {each.partition(":")[0] for each in err.splitlines()}
    assert told == {"line 2", "line 5", "line 6", "line 7", "line 9"}
    assert "line 5: say either content (a text) or fields (an object)" in err
    assert shards_of(database) == [
        ("a", 2, "Wheat."),
        ("b", 1, "Rye."),
        ("d", 1, None),
        ("f", 1, None),
    ]
    assert {feed["shard_type_id"] for feed in command.json("shards", "list")} == {"articles", "others"}


def test_a_file_and_many_batches_and_counts_for_programs(
    command: CommandLine, database: str, tmp_path: Path
) -> None:
    file = tmp_path / "feed.jsonl"
    count = 2 * BATCH_LINES + 7
    file.write_bytes(b"".join(line(str(n), content=f"Shard {n}.", version=1) for n in range(count)))
    said = command.json("shards", "import", "--jsonl", str(file), "--type", "t")
    assert said == {"lines": count, "applied": count, "ignored": 0, "rejected": 0, "bad": 0}
    again = command.json("shards", "import", "--jsonl", str(file), "--type", "t")
    assert again == said
    assert len(shards_of(database)) == count


def test_a_slow_feed_is_not_held_back_and_an_interrupt_loses_nothing(
    command: CommandLine, database: str
) -> None:
    with start_import(command, "--type", "t") as process:
        assert process.stdin is not None
        for n in range(3):
            process.stdin.write(line(str(n), content="c"))
            process.stdin.flush()
            while len(shards_of(database)) <= n:  # each is written though no other has come
                assert process.poll() is None
        process.stdin.write(line("last", content="c"))
        process.stdin.flush()
        while len(shards_of(database)) < 4:
            assert process.poll() is None
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == b"4 lines: 4 applied\n"
    assert b"stopped: everything up to line 4 is written" in err


@pytest.mark.parametrize("through", ["standard input", "standard input that does not wait", "a file"])
def test_an_interrupt_ends_it_while_its_feed_stays_open(
    command: CommandLine, database: str, tmp_path: Path, through: str
) -> None:
    fifo = tmp_path / "feed"
    os.mkfifo(fifo)
    file = str(fifo) if through == "a file" else "-"
    feed = os.open(fifo, os.O_RDWR)  # for all: opening waits for nobody
    os.set_blocking(feed, through != "standard input that does not wait")
    with subprocess.Popen(
        [EMBEDMILL, "shards", "import", "--jsonl", file, "--type", "t"],
        env=command.environment,
        stdin=feed,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            os.write(feed, line("a", content="c"))
            while not shards_of(database):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
            os.close(feed)
    assert (process.returncode, out) == (130, b"1 line: 1 applied\n"), err
    assert err == b"stopped: everything up to line 1 is written\n"


def test_a_pipeline_that_does_not_exist_ends_at_once(command: CommandLine) -> None:
    _, err = imported(command, line("a", content="c"), "--type", "t", "--pipeline", "nothing", status=1)
    assert "there is no pipeline 'nothing'" in err
