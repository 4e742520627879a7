"""How much memory the embedded server may keep: a share of what there is, also in a container that may have less."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from embedmill.database.embedded_settings import buffers_mb, memory_bytes

GIB = 1024**3


@pytest.mark.parametrize(
    ("memory_gib", "megabytes"), [(0.25, 128), (1, 128), (2, 256), (8, 1024), (64, 8192), (512, 8192)]
)
def test_an_eighth_of_the_memory_within_bounds(memory_gib: float, megabytes: int) -> None:
    assert buffers_mb(round(memory_gib * GIB)) == megabytes


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("536870912\n", 536870912),
        ("max\n", None),
        ("9223372036854771712", None),
        ("", None),
        (None, None),
    ],
)
def test_a_container_may_have_less_than_the_machine(
    tmp_path: Path, written: str | None, expected: int | None
) -> None:
    limit = tmp_path / "memory.max"
    if written is not None:
        limit.write_text(written)
    whole = psutil.virtual_memory().total
    assert memory_bytes((limit, tmp_path / "nothing")) == (expected or pytest.approx(whole, rel=0.01))
