"""What an install takes and how long a start: the core, with its own PostgreSQL, and all parts, in fresh environments;
beside the peers that stand installed under .peers/. Owns these measurements; installs no peer."""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.provider import RunningProvider
from tests.support.work import add_document

from benchmarks.scaling.processes import commands, stage
from embedmill.app import App
from embedmill.database.queries import load_queries

_SQL = load_queries("benchmarks.scaling", "scaling.sql")
ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / ".peers"
EXTRAS = {"embedmill": "", "embedmill[embedded]": "[embedded]", "embedmill[all]": "[all]"}
# What a peer's program imports before it can begin, by a word of its environment's name.
IMPORTS = {
    "pgai": "import pgai.vectorizer",
    "cocoindex": "import cocoindex",
    "llama": "import llama_index.core.ingestion, llama_index.vector_stores.postgres",
    "langchain": "import langchain_postgres",
}
TOOLS = ("pip", "setuptools", "wheel", "_distutils_hack", "distutils-precedence.pth", "uv")


def installs(runs: int) -> Iterator[dict[str, Any]]:
    """Megabytes and seconds of each install of ours, then of the peers' environments."""
    bare = seconds_of([sys.executable, "-c", "pass"], runs)
    yield {"measure": "install", "what": "nothing", "start": "python -c pass", "start_seconds": bare}
    for what, extras in EXTRAS.items():
        with fresh_install(extras) as environment:
            yield {
                "measure": "install",
                "what": what,
                **size_of(environment),
                "start": "embedmill --version",
                "start_seconds": seconds_of([str(environment / "bin" / "embedmill"), "--version"], runs),
            }
    for environment in sorted(PEERS.glob("*")) if PEERS.exists() else ():
        yield from peer(environment, runs)


def peer(environment: Path, runs: int) -> Iterator[dict[str, Any]]:
    """An environment that somebody made; nothing where it is none of ours to name."""
    for word, statement in IMPORTS.items():
        if word in environment.name and (program := environment / "bin" / "python").exists():
            yield {
                "measure": "install",
                "what": environment.name,
                **size_of(environment),
                "start": statement,
                "start_seconds": seconds_of([str(program), "-c", statement], runs),
            }


@contextmanager
def fresh_install(extras: str) -> Iterator[Path]:
    """An environment with nothing but the project and what it needs."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
        pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
        source = Path(folder) / "source"
        shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        options = ["--quiet", "--disable-pip-version-check"]
        # A registry that is not there says so on every line; what matters is the status.
        subprocess.run(
            [*pip, "install", *options, f"{source}{extras}"], check=True, stderr=subprocess.DEVNULL
        )
        yield environment


def size_of(environment: Path) -> dict[str, Any]:
    """Of what was installed into an environment, with the tools that install left out."""
    (packages,) = environment.glob("lib/python*/site-packages")
    kept = [each for each in packages.iterdir() if each.name.partition("-")[0] not in TOOLS]
    distributions = [each for each in kept if each.name.endswith(".dist-info")]
    return {"distributions": len(distributions), "megabytes": round(sum(map(bytes_of, kept)) / 1e6)}


def bytes_of(path: Path) -> int:
    """As the disk keeps them, in blocks."""
    if not path.is_dir():
        return path.lstat().st_blocks * 512
    found = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return sum(each.lstat().st_blocks * 512 for each in found)


def seconds_of(command: list[str], runs: int) -> float:
    """The median of these runs, after one that is not counted."""
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - started)
    return round(statistics.median(times[1:]), 3)


async def first_claim(provider: RunningProvider, runs: int) -> dict[str, Any]:
    """From the start of an `embedmill worker` process to the claim of an item that waits already. One clock: the server
    runs on the same machine."""
    times = []
    async with stage(provider, 100) as (app, pipeline, url, folder):
        for run in range(runs + 1):
            await app.database.fetch("TRUNCATE embedmill.embedding_queue_history")
            await add_document(app, pipeline, f"document {run}", [f"text {run}"])
            began = datetime.now(UTC)
            with commands(url, folder, ["worker"]):
                times.append((await _claimed(app) - began).total_seconds())
    return {
        "measure": "install",
        "what": "embedmill[all]",
        "start": "embedmill worker, to its first claim",
        "start_seconds": round(statistics.median(times[1:]), 3),
    }


async def _claimed(app: App) -> datetime:
    while True:
        found: datetime | None = (await app.database.fetch(_SQL["first_claim"]))[0][0]
        if found is not None:
            return found
        await asyncio.sleep(0.1)
