"""`embedmill audit`: the table of kinds, examples, JSON, what it ends with; the order over the API."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from tests.sources.auditing import behind_our_back, delete_vectors, embedded_table
from tests.support.commands import CommandLine
from tests.support.provider import RunningProvider
from tests.support.records import work_until_quiet


@pytest.fixture
def command(database: str, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "data", database)


async def test_faults_are_shown_repaired_and_gone(
    app: App, pipeline: Pipeline, provider: RunningProvider, command: CommandLine
) -> None:
    await embedded_table(app, pipeline, 12)
    said = command.run("audit").stdout
    assert said.startswith("nothing is wrong: 48 rows, documents and vectors"), said
    await delete_vectors(app, pipeline, ["3", "4"])
    await behind_our_back(app, "UPDATE public.jobs SET title = 'Baker' WHERE id = 7")

    said = command.run("audit", "--examples", "1", status=1).stdout
    assert "done but no vector           2       0" in said, said
    assert "vector of an older text      1       0" in said
    assert "public.jobs 3:" in said
    assert "public.jobs 4:" not in said
    assert "`embedmill audit --repair`: what is missing is enqueued" in said
    assert said.endswith("4 faults left\n")

    found = command.json("audit", "--source", "public.jobs", status=1)
    assert {one["kind"]: one["count"] for one in found["findings"]} == {
        "done_but_no_vector": 2,
        "vector_of_an_older_text": 1,
        "job_counters_that_lie": 1,
    }
    assert found["findings"][1]["examples"] == [
        {
            "id": "7",
            "source": "public.jobs",
            "document_id": found["findings"][1]["examples"][0]["document_id"],
            "detail": "the row's text is another than what was read",
        }
    ]

    provider.forget_counts()
    said = command.run("audit", "--repair").stdout
    assert said.endswith("all of it was set right\n"), said
    await work_until_quiet(app)
    assert provider.stats()["inputs_paid"] == 3
    assert command.json("audit")["findings"] == []


async def test_what_does_not_exist_is_told(command: CommandLine, pipeline: Pipeline) -> None:
    assert (
        "there is no source 'public.nothing'"
        in command.run("audit", "--source", "public.nothing", status=1).stderr
    )
    assert "there is no pipeline 'nothing'" in command.run("audit", "-p", "nothing", status=1).stderr
    command.run("audit", "--examples", "21", status=2)
