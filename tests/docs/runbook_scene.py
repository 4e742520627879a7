"""The installation at which the runbook is tried: an embedded PostgreSQL, a service, a pipeline on the stand-in, and,
before each chapter, the trouble that it is about. Owns the troubles; what is typed and printed stands in the page."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import psycopg

from embedmill.database import embedded
from embedmill.database.embedded_account import choose_account
from embedmill.database.embedded_cluster import find_programs
from tests.journeys.service_process import ServiceProcess
from tests.support.commands import CommandLine
from tests.support.console_blocks import plain_environment
from tests.support.provider import RunningProvider
from tests.support.work import DIMENSIONS, add_document, app_on

PAPERS = {
    "tides.md": "# Tides\n\nThe spring tide follows the new moon.\n",
    "bread.md": "# Bread\n\nRye needs a sour dough.\n",
    "clouds.md": "# Clouds\n\nA halo around the sun foretells rain.\n",
}


class Installation:
    """`environment` is that of the person at the keyboard, whose home is `home`."""

    def __init__(self, home: Path, data_dir: Path, provider: RunningProvider) -> None:
        self.home = home
        self.data_dir = data_dir
        self.provider = provider
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.nobody = f"127.0.0.1:{free.getsockname()[1]}"
        self.url = embedded.ensure_running(data_dir)
        own: dict[str, str] = {"EMBEDMILL_DATA_DIR": str(data_dir), "EMBEDMILL_OPENAI_API_KEY": "sk-of-the-runbook",
               "EMBEDMILL_ALLOWED_HOSTS": "127.0.0.1"}  # fmt: skip
        programs = find_programs(choose_account(data_dir, data_dir / "postgres" / "data"))
        self.environment = plain_environment(home, programs, Path(sys.executable).parent, USER="ann", **own)
        self.command = CommandLine(data_dir, **own)  # type: ignore[arg-type]
        self._service: ServiceProcess | None = None
        self._held = ExitStack()

    def __enter__(self) -> Self:
        papers = self.home / "papers"
        papers.mkdir()
        for name, text in PAPERS.items():
            (papers / name).write_text(text)
        self.command.run(
            "pipeline", "create", "papers", "--provider", "openai", "--model", "stand-in",
            "--base-url", self.provider.base_url, "--dimensions", str(DIMENSIONS),
            "--price-per-million-tokens", "100", "--max-inputs-per-call", "10",
        )  # fmt: skip
        self.command.run("ingest", str(papers), "--pipeline", "papers")
        self._service = ServiceProcess(self.url, self.data_dir, "--no-workers")
        asyncio.run(self._service.start())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._held.close()
        if self._service is not None and self._service.lives:
            self._service.stop()

    @property
    def stands_for(self) -> dict[str, str]:
        """What the pages call things."""
        return {
            "127.0.0.1:8080": self.address,
            "hooks.internal:9000": self.nobody,
            "models.example.com": f"127.0.0.1:{self.provider.port}",
            "/home/ann": str(self.home),
            "/var/lib/embedmill": str(self.data_dir),
        }

    @property
    def address(self) -> str:
        assert self._service is not None
        assert self._service.address is not None
        return self._service.address.removeprefix("http://")

    def make_trouble(self, chapter: str) -> None:
        """What the chapter is about, where it needs more than what stands."""
        trouble = TROUBLES.get(chapter)
        if trouble is not None:
            trouble(self)

    def do(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def add(self, *names: str, texts: Sequence[str] = ()) -> None:
        """Documents whose items wait."""

        async def story() -> None:
            async with app_on(self.url, self.data_dir) as app:
                pipeline = await app.pipeline("papers")
                for name in names:
                    await add_document(app, pipeline, name, texts or [f"a passage of {name}"])

        asyncio.run(story())

    def work(self) -> None:
        """A worker until nothing is left."""
        self.command.run("worker", "--until-empty")

    def hold(self, statement: str) -> None:
        """A session that somebody has left within a transaction."""
        connection = psycopg.connect(self.url, application_name="a forgotten session")
        self._held.callback(connection.close)
        connection.execute(statement.encode())


def _stuck(here: Installation) -> None:
    here.command.run("queue", "pause", "--pipeline", "papers")
    here.add("stuck.txt")


def _no_workers(here: Installation) -> None:
    here.add("alone.txt")


def _failing(here: Installation) -> None:
    """The provider answered with rubbish, until the attempts were used up."""
    here.command.run("config", "set", "max_retries", "0")
    here.provider.configure(faults=["not_json"] * 20)
    here.add("cheese.txt")
    here.work()
    here.provider.configure(faults=[])
    here.command.run("config", "reset", "max_retries")


def _dead(here: Installation) -> None:
    here.provider.configure(poison="forbidden")
    here.add("secret.txt", texts=["a forbidden word", "and a good one"])
    here.work()


def _storm(here: Installation) -> None:
    here.do("SELECT embedmill.cool_down('default/papers', 600000, 'the provider said 429')")
    here.add("storm.txt")


def _quota(here: Installation) -> None:
    here.do("UPDATE embedmill.quotas SET cooldown_until = now()")
    here.command.run("quota", "set", "default/papers", "--calls-per-minute", "1")
    here.do("SELECT embedmill.grant_quota('default/papers', 100)")
    here.add("quota.txt")


def _away(here: Installation) -> None:
    here.work()
    here.provider.configure(api_key="another")


def _fallen(here: Installation) -> None:
    here.provider.configure(api_key=None, poison=None)
    with psycopg.connect(here.url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT g.id FROM embedmill.generations g JOIN embedmill.pipelines p ON p.current_generation_id = g.id "
            "WHERE p.name = 'papers'"
        ).fetchone()
        assert row is not None
        connection.execute(
            f"DELETE FROM embedmill.vectors_{row[0]} WHERE chunk_id IN "
            "(SELECT id FROM embedmill.knowledge_chunks WHERE text LIKE '%spring tide%')".encode()
        )


def _xmin(here: Installation) -> None:
    here.hold("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM embedmill.tenants")


def _locked(here: Installation) -> None:
    here.hold("LOCK TABLE embedmill.webhooks")
    waiting = psycopg.connect(here.url, application_name="somebody who waits")
    here._held.callback(waiting.close)
    waiting.pgconn.send_query(b"SELECT count(*) FROM embedmill.webhooks")


def _budget(here: Installation) -> None:
    here.command.run("budget", "set", "0.00001")
    here.add("dear.txt", texts=["a dear passage of many words"])


def _flood(here: Installation) -> None:
    here.work()
    here.command.run("tenant", "create", "acme")


def _webhook(here: Installation) -> None:
    here.command.run("webhook", "add", f"http://{here.nobody}/hook", "--event", "job.failed")


def _rolled(here: Installation) -> None:
    here.command.run("pipeline", "migrate", "papers", "--chunk-tokens", "300", "--samples", "0")


TROUBLES: dict[str, Callable[[Installation], None]] = {
    "Stuck queue": _stuck,
    "No workers": _no_workers,
    "Failure rate": _failing,
    "Dead letters growing": _dead,
    "429 storm": _storm,
    "Quota exhausted": _quota,
    "Provider away": _away,
    "Coverage falling": _fallen,
    "Oldest xmin": _xmin,
    "Locks": _locked,
    "Budget reached": _budget,
    "A tenant who floods": _flood,
    "Webhook failures": _webhook,
    "Roll back": _rolled,
}
