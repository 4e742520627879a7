"""All processes of a machine together: the files of the living, and what the dead have left. Owns the taking over, by
which no counter goes back when a process ends; must not know a metric.

What a dead process counted is added to `ended.json`, which is replaced as a whole, and then its file goes. A reader
that dies between the two leaves a file whose name stands in `ended.json` already: it is not added again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from embedmill.adapters.telemetry.process_file import SUFFIX, is_owned, locked, read_values

_log = structlog.get_logger(__name__)
_ENDED = "ended.json"

Series = dict[str, list[float]]


class _Ended(msgspec.Struct):
    """`files` are those that are in `series` already."""

    files: list[str] = []
    series: Series = {}


class Machine(msgspec.Struct, frozen=True):
    """Sums over all processes there are and were, and how many live."""

    series: Series
    processes: int


def read_machine(folder: Path, take_over: Callable[[Series, Series], None]) -> Machine:
    """Read the folder. `take_over(into, of)` adds the series of a process that has ended to those of the others.
    Raises OSError where the folder cannot be read or written."""
    if not folder.is_dir():
        return Machine({}, 0)
    with locked(folder):
        living: list[Path] = []
        dead: list[Path] = []
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            (living if is_owned(path) else dead).append(path)
        ended = _read_ended(folder / _ENDED)
        if dead:
            _take_over(folder, ended, dead, take_over)
        total = {key: list(values) for key, values in ended.series.items()}
        for path in living:
            add_series(total, _read(path))
    return Machine(total, len(living))


def add_series(into: Series, of: Series) -> None:
    """Add number by number; of two layouts of one name the first stays."""
    for key, values in of.items():
        known = into.get(key)
        if known is None:
            into[key] = list(values)
        elif len(known) == len(values):
            into[key] = [one + other for one, other in zip(known, values, strict=True)]


def _take_over(
    folder: Path, ended: _Ended, dead: list[Path], take_over: Callable[[Series, Series], None]
) -> None:
    for path in dead:
        if path.name not in ended.files:
            take_over(ended.series, _read(path))
    ended.files = [path.name for path in dead]
    half = folder / f"{_ENDED}.new"
    with half.open("wb") as file:
        file.write(msgspec.json.encode(ended))
        file.flush()
        os.fsync(file.fileno())
    half.replace(folder / _ENDED)
    for path in dead:
        path.unlink(missing_ok=True)


def _read(path: Path) -> Series:
    try:
        return read_values(path)
    except ValueError as error:
        _log.warning("figures of a process cannot be read", file=path.name, error=str(error))
        return {}


def _read_ended(path: Path) -> _Ended:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Ended)
    except FileNotFoundError:
        return _Ended()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _log.warning("figures of processes that ended cannot be read; counting anew", error=str(error))
        return _Ended()
