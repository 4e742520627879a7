"""`embedmill job`: jobs listed, shown, stopped, taken up, deleted, straight on the database; of this tenant only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from embedmill.app import App, build_originals
from embedmill.ingest.upload import Staged, Uploads, Wishes
from tests.support.commands import CommandLine
from tests.support.work import app_on

NOBODY = "00000000-0000-0000-0000-000000000000"


class Desk:
    """A command line, and uploads made beside it as the service makes them. No worker runs."""

    def __init__(self, url: str, data_dir: Path) -> None:
        self.url = url
        self.data_dir = data_dir
        self.command = CommandLine(data_dir, url)

    def stage(self, *names: str, batch_id: UUID | None = None) -> list[str]:
        """The ids of their jobs, oldest first."""
        return [str(staged.job_id) for staged in asyncio.run(self._stage(names, batch_id))]

    def originals(self) -> int:
        return sum(path.is_file() for path in (self.data_dir / "originals").rglob("*"))

    async def _stage(self, names: tuple[str, ...], batch_id: UUID | None) -> list[Staged]:
        async with app_on(self.url, self.data_dir) as app:
            return [await self._stage_one(app, name, batch_id) for name in names]

    async def _stage_one(self, app: App, name: str, batch_id: UUID | None) -> Staged:
        async def content() -> AsyncIterator[bytes]:
            yield name.encode()

        uploads = Uploads(app.database, build_originals(app.settings), await app.tenant_id())
        kept = await uploads.keep(name, None, content(), max_bytes=1000)
        return await uploads.stage(await app.pipeline("default"), kept, Wishes(batch_id=batch_id))


@pytest.fixture
def desk(database: str, tmp_path: Path) -> Desk:
    return Desk(database, tmp_path / "data")


def test_jobs_are_listed_in_pages_and_shown(desk: Desk) -> None:
    run, json = desk.command.run, desk.command.json
    assert "no jobs" in run("job", "list").stdout
    first, second = desk.stage("a.txt", "b.txt")
    assert [one["id"] for one in json("job", "list")] == [second, first]
    page = run("job", "list", "--limit", "1").stdout
    assert "b.txt" in page
    assert f"more: --after {second}" in page
    assert [one["id"] for one in json("job", "list", "--after", second)] == [first]
    assert json("job", "list", "--status", "completed") == []
    assert "nothing matches" in run("job", "list", "--status", "completed").stdout
    shown = run("job", "show", first).stdout
    assert shown.startswith("a.txt  (upload sha256:")
    assert "waits for a worker to read it" in shown
    assert json("job", "show", first)["progress"] == 0


def test_a_job_is_cancelled_resumed_and_deleted_with_its_original(desk: Desk) -> None:
    run = desk.command.run
    (job,) = desk.stage("a.txt")
    assert f"{job}: it is under way: staged" in run("job", "resume", job, status=1).stderr
    assert "Wait for its chunks" in run("job", "launch", job, status=1).stderr
    assert run("job", "cancel", job).stdout == f"{job}: cancelled, 0%\n"
    assert f"`embedmill job resume {job}` goes on" in run("job", "show", job).stdout
    assert run("job", "resume", job).stdout == f"{job}: waits for a worker to read it\n"
    assert desk.originals() == 1
    assert run("job", "delete", job).stdout == f"{job}: deleted\n"
    assert desk.originals() == 0
    assert "there is no ingestion job" in run("job", "show", job, status=1).stderr


def test_a_batch_is_served_as_one(desk: Desk) -> None:
    batch = uuid4()
    a, b = desk.stage("a.txt", "b.txt", batch_id=batch)
    desk.stage("c.txt")
    done = desk.command.json("job", "cancel", "--batch", str(batch))
    assert {one["id"] for one in done["done"]} == {a, b}
    assert len(desk.command.json("job", "list", "--status", "cancelled")) == 2
    said = desk.command.run("job", "launch", "--batch", str(batch)).stdout
    assert "no job of the batch is in a state for it" in said


def test_another_tenants_job_is_not_there(desk: Desk) -> None:
    (job,) = desk.stage("a.txt")
    desk.command.run("tenant", "create", "acme")
    desk.command.environment["EMBEDMILL_TENANT"] = "acme"
    assert desk.command.json("job", "list") == []
    for act in ("show", "launch", "cancel", "resume", "retry", "delete"):
        assert f"there is no ingestion job {job}" in desk.command.run("job", act, job, status=1).stderr
    desk.command.environment["EMBEDMILL_TENANT"] = "default"
    assert desk.command.json("job", "show", job)["status"] == "staged"


def test_what_can_be_done_is_done_and_the_rest_told(desk: Desk) -> None:
    (job,) = desk.stage("a.txt")
    done = desk.command.json("job", "cancel", job, NOBODY, status=1)
    assert [one["status"] for one in done["done"]] == ["cancelled"]
    assert done["not_possible"] == {NOBODY: f"there is no ingestion job {NOBODY}"}


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["cancel"], 2, "`embedmill job list` shows them"),
        (["cancel", NOBODY, "--batch", NOBODY], 2, "which ones?"),
        (["cancel", "--batch", NOBODY], 1, f"there is no batch {NOBODY}"),
        (["delete"], 2, "which ones?"),
        (["show", "7"], 2, "UUID"),
        (["list", "-p", "nobody"], 1, "there is no pipeline 'nobody'"),
        (["list", "--after", NOBODY], 1, "there is no ingestion job"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(desk: Desk, arguments: list[str], status: int, said: str) -> None:
    done = desk.command.run("job", *arguments, status=status)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
