"""The first journey, through the installed command: documents in, answers out, again, changed, gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import CommandLine
from tests.support.good_documents import GOOD, PAGES, write_good
from tests.support.hostile import PARSES, write_hostile
from tests.support.provider import start_provider


def test_every_format_is_found_again_and_a_second_run_pays_for_nothing(database: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_good(corpus)
    command = CommandLine(tmp_path / "data", database, is_fresh=True)
    first = command.json("ingest", str(corpus))
    assert first["coverage_percent"] == 100.0
    assert first["verdicts"] == {"added": len(GOOD)}
    assert first["failed_files"] == []
    assert first["calls"] >= 1

    for mode in ("hybrid", "vector", "text"):
        hits = command.json("search", PAGES[1], "--mode", mode, "--limit", "50")
        assert {Path(hit["source_id"]).name for hit in hits} == set(GOOD), mode
        assert all(hit["score"] > 0 for hit in hits)
    page = next(hit for hit in hits if hit["name"] == "good.pdf" and PAGES[1] in hit["text"])
    assert page["place_kind"] == "page"
    assert page["place_last"] == "2"

    second = command.json("ingest", str(corpus))
    assert (second["calls"], second["verdicts"]) == (0, {"unchanged": len(GOOD)})
    status = command.json("status")
    assert status["pipelines"][0]["coverage_percent"] == 100.0
    assert status["queue"] == {
        "pending": 0,
        "processing": 0,
        "rate_limited": 0,
        "oldest_waiting_seconds": None,
    }


def test_only_what_changed_is_paid_for_and_what_is_gone_is_removed(database: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    (corpus / "sub").mkdir(parents=True)
    paragraphs = [
        f"Paragraph {n} speaks of subject {n}. " + " ".join(f"word{n}x{i}" for i in range(60))
        for n in range(40)
    ]
    long = corpus / "long.txt"
    long.write_text("\n\n".join(paragraphs))
    (corpus / "gone.txt").write_text("A document that will go.")
    (corpus / "sub" / "kept.txt").write_text("A document in a folder below.")
    with start_provider(dimensions=32) as provider:
        command = CommandLine(tmp_path / "data", database)
        create(command, provider.base_url)
        before = command.json("ingest", str(corpus), "-p", "counted", "--recursive")
        paid = provider.stats()["inputs_paid"]
        assert paid == before["chunks"] > 20

        paragraphs[20] = "Something else stands here now, and it is short."
        long.write_text("\n\n".join(paragraphs))
        (corpus / "gone.txt").unlink()
        after = command.json("ingest", str(corpus), "-p", "counted", "--recursive", "--delete-missing")
        assert after["verdicts"] == {"changed": 1, "unchanged": 1, "deleted": 1}
        assert 1 <= provider.stats()["inputs_paid"] - paid <= 3
        assert after["coverage_percent"] == 100.0
        names = {hit["name"] for hit in command.json("search", "document", "-p", "counted", "--mode", "text")}
        assert names == {"kept.txt"}

        shallow = command.json("ingest", str(corpus), "-p", "counted", "--delete-missing")
        assert shallow["verdicts"] == {"unchanged": 1}, "a folder that was not entered loses nothing"
        assert command.json("search", "folder", "-p", "counted", "--mode", "text")


def test_hostile_files_get_a_line_each_and_harm_nobody_else(database: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    expected = write_hostile(corpus)
    (corpus / "one_line.csv").unlink(missing_ok=True)  # good text, only long
    write_good(corpus)
    # The bombs are made for a small process; the rule is the same for a large one.
    command = CommandLine(tmp_path / "data", database, EMBEDMILL_PARSE_MEMORY_MB="256")
    done = command.run("ingest", str(corpus), status=1, seconds=600)
    lines = [line for line in done.stdout.splitlines() if line.startswith("failed")]
    refused = {name for name, reasons in expected.items() if reasons != PARSES and (corpus / name).is_file()}
    named = {line.removeprefix("failed").strip().split(": ")[0].rpartition("/")[2] for line in lines}
    assert refused <= named
    assert not named & set(GOOD)
    assert len(lines) == len(named), "one line for each"

    report = command.json("ingest", str(corpus), status=1)
    for failure in report["failed_files"]:
        reasons = expected.get(Path(failure["path"]).name)
        assert reasons is None or failure["reason"] in reasons, failure
        assert failure["message"]
        assert "\n" not in failure["message"]
    assert report["coverage_percent"] == 100.0
    hits = command.json("search", PAGES[0], "--limit", "100", "--mode", "text")
    assert {hit["name"] for hit in hits} >= set(GOOD)


@pytest.mark.parametrize("fault", ["401", "wrong_dims"])
def test_a_provider_that_refuses_stops_the_run_and_a_later_run_goes_on(
    database: str, tmp_path: Path, fault: str
) -> None:
    (tmp_path / "a.txt").write_text("One passage to embed.")
    with start_provider(dimensions=32) as provider:
        command = CommandLine(tmp_path / "data", database)
        create(command, provider.base_url)
        if fault == "401":
            provider.configure(api_key="the right one")
        else:
            provider.configure(dimensions=16, dimensions_parameter="ignore")
        refused = command.run("ingest", str(tmp_path / "a.txt"), "-p", "counted", status=1)
        assert "stopped" in refused.stdout or "failed" in refused.stdout
        assert "Traceback" not in refused.stderr
        provider.reset(dimensions=32)
        after = command.json("ingest", str(tmp_path / "a.txt"), "-p", "counted")
        assert after["coverage_percent"] == 100.0
        assert after["embedded_chunks"] == 1


def create(command: CommandLine, base_url: str, *more: str) -> None:
    command.run(
        "pipeline", "create", "counted", "--model", "stand-in", "--base-url", base_url, "--dimensions", "32",
        "--price-per-million-tokens", "0.02", *more,
    )  # fmt: skip
