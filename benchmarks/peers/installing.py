"""The peers' environments: one each under .peers/, which git ignores. Owns making them and saying what is in them."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from importlib import metadata

from benchmarks.peers.systems import ENVIRONMENTS, System


def install(system: System) -> str | None:
    """Its environment, made where there is none; why not, where that fails."""
    if not system.program.exists():
        subprocess.run([sys.executable, "-m", "venv", system.environment], check=True)
    with tempfile.TemporaryFile("w+") as said:
        pip = [str(system.program), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run(
            [*pip, *system.requirements], stdout=said, stderr=subprocess.STDOUT, check=False
        )
        said.seek(0)
        lines = said.read().strip().splitlines()
    if done.returncode == 0:
        return None
    return f"pip could not install it: {lines[-1] if lines else done.returncode}"


def version_of(system: System) -> str:
    """The version of its first requirement; ours is that of embedmill."""
    if not system.is_peer:
        return metadata.version("embedmill")
    package = re.split(r"[\[=]", system.requirements[0])[0]
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([system.program, "-c", code], capture_output=True, text=True, check=True)
    return f"{package} {done.stdout.strip()}"


def why_missing(system: System) -> str | None:
    """Why a system cannot run; None where it can."""
    if system.program.exists():
        try:
            version_of(system)
        except subprocess.CalledProcessError:
            return (
                f"its environment in {ENVIRONMENTS.name}/ is not whole: python -m benchmarks.peers --install"
            )
        return None
    return "not installed: python -m benchmarks.peers --install"
