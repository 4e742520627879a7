"""deploy/systemd: units that systemd understands, whose commands and times are the program's."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from embedmill.api.server import GRACE_SECONDS
from embedmill.fleet.seat import SeatOptions
from tests.deploy.shipped import DEPLOY, parse_command, unit, unknown_variables

UNITS = {"embedmill.service": GRACE_SECONDS, "embedmill-worker@.service": SeatOptions().stop_seconds}
PROGRAM = "/opt/embedmill/bin/embedmill"


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_runs_a_command_that_there_is_and_waits_for_its_drain(name: str) -> None:
    directives = unit(name)
    program, *arguments = shlex.split(directives["ExecStart"][0])
    assert program == PROGRAM
    parse_command(arguments)
    assert int(directives["TimeoutStopSec"][0]) > UNITS[name]
    # SIGTERM to the command alone: it tells its own processes, and what is left over at the end is killed.
    assert directives["KillMode"] == ["mixed"]
    assert "KillSignal" not in directives


@pytest.mark.parametrize("name", UNITS)
def test_every_variable_is_a_setting_and_no_secret_stands_in_a_unit(name: str) -> None:
    text = (DEPLOY / "systemd" / name).read_text(encoding="utf-8")
    assert unknown_variables(text) == set()
    assert unit(name)["EnvironmentFile"] == ["/etc/embedmill/embedmill.env"]
    assert unit(name)["LoadCredential"] == ["pg_service.conf:/etc/embedmill/pg_service.conf"]


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_may_do_little(name: str) -> None:
    directives = unit(name)
    assert directives["User"] == ["embedmill"]
    assert directives["NoNewPrivileges"] == ["true"]
    assert directives["ProtectSystem"] == ["strict"]
    assert directives["CapabilityBoundingSet"] == [""]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    units = []
    for name in UNITS:
        text = (DEPLOY / "systemd" / name).read_text(encoding="utf-8")
        path = tmp_path / name.replace("@.", "@1.")
        # It must exist, and it is not installed under /opt here.
        path.write_text(text.replace(PROGRAM, sys.executable))
        units.append(str(path))
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    ours = [line for line in told.stderr.splitlines() if str(tmp_path) in line or "embedmill" in line]
    assert (told.returncode, ours) == (0, []), told.stderr
