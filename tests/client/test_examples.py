"""The example and the page run as they stand."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from embedmill import AsyncClient, Client
from embedmill.client import Job
from tests.support.serving import Serving

ROOT = Path(__file__).parents[2]
DOCUMENT = "# Returns\n\nA mill wheel may be returned within thirty days, if it was not used.\n"


async def test_the_example_answers_a_question_about_its_document(service: Serving, tmp_path: Path) -> None:
    document = tmp_path / "handbook.md"
    document.write_text(DOCUMENT)
    for _ in range(2):  # a second time it is known already
        done = await asyncio.to_thread(
            subprocess.run,
            [
                sys.executable,
                str(ROOT / "examples" / "python_client.py"),
                str(document),
                "how do I return a mill wheel?",
                service.address,
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={name: value for name, value in os.environ.items() if name != "EMBEDMILL_API_KEY"},
        )
        assert done.returncode == 0, done.stderr
        assert "completed: 1 embedded, 0 failed" in done.stdout
        assert "within thirty days" in done.stdout
        assert done.stderr == ""  # no bar where there is no terminal


async def test_the_first_program_of_the_page_runs(
    service: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "handbook.pdf").write_text(DOCUMENT)
    monkeypatch.chdir(tmp_path)
    program = blocks()[0].replace("Client()", f"Client({service.address!r})")
    await asyncio.to_thread(exec, compile(program, "page", "exec"), {})
    assert "within thirty days" in capsys.readouterr().out


def test_every_method_that_the_page_names_exists() -> None:
    named = {
        (node.value.id, node.attr)
        for block in blocks()
        for node in ast.walk(ast.parse("async def page():\n" + re.sub("^", " ", block, flags=re.MULTILINE)))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    kinds = {"client": (Client, AsyncClient), "job": (Job,)}
    checked = [(kind, name) for owner, name in named for kind in kinds.get(owner, ())]
    assert len(checked) > 20
    assert [(kind, name) for kind, name in checked if name != "record" and not hasattr(kind, name)] == []


def blocks() -> list[str]:
    page = (ROOT / "docs" / "how-to" / "python-client.md").read_text()
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)
