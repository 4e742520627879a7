"""The same on one's own PostgreSQL: another version, over TCP, with a password; and servers that will not do."""

from __future__ import annotations

from pathlib import Path

from tests.support.commands import CommandLine


def test_documents_in_answers_out_on_postgresql_16(postgres16: str, tmp_path: Path) -> None:
    note = tmp_path / "note.md"
    note.write_text(
        "# Tides\n\nThe spring tide follows the new moon.\n\n# Bread\n\nRye needs a sour dough.\n"
    )
    command = CommandLine(tmp_path / "data", postgres16, is_fresh=True)
    report = command.json("ingest", str(note))
    assert report["coverage_percent"] == 100.0
    hits = command.json("search", "when is the water highest?", "--limit", "1")
    assert "new moon" in hits[0]["text"]
    assert not (tmp_path / "data" / "postgres").exists(), "no embedded server was started"
    assert "up to date" in command.run("db", "migrate").stdout
    assert "own database" in command.run("db", "stop", status=1).stderr


def test_a_server_that_is_not_there_is_told_in_a_sentence(tmp_path: Path) -> None:
    command = CommandLine(tmp_path / "data", "postgresql://me:hunter2@127.0.0.1:1/nowhere")
    for arguments in (
        ("status",),
        ("ingest", str(tmp_path)),
        ("search", "x"),
        ("worker",),
        ("db", "migrate"),
    ):
        told = command.run(*arguments, status=1).stderr
        assert told.startswith("embedmill: "), told
        assert "hunter2" not in told
        assert "Traceback" not in told
