"""Faults at random while several workers work on several pipelines and more work arrives. EMBEDMILL_TEST_FAULTS is how
many (`make crash` asks for the long form); EMBEDMILL_TEST_SEED repeats the drawing that a failure prints."""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.support.faults.mill import Mill
from tests.support.faults.storm import Storm
from tests.support.faults.verdict import judge


@pytest.mark.timeout(1500)
async def test_every_item_ends_once_and_nothing_is_lost_in_a_storm(
    mill: Mill, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = int(os.environ.get("EMBEDMILL_TEST_FAULTS", "12"))
    seed = int(os.environ.get("EMBEDMILL_TEST_SEED", str(time.time_ns() % 1_000_000)))
    print(f"EMBEDMILL_TEST_SEED={seed} EMBEDMILL_TEST_FAULTS={faults}")
    mill.provider.configure(latency_ms=60, latency_jitter_ms=120)
    storm = Storm(mill, random.Random(seed))
    started = time.monotonic()
    await storm.run(faults)
    verdict = await judge(mill)
    with capsys.disabled():
        print(
            f"\nseed {seed}: {storm.counts.total()} faults in {time.monotonic() - started:.0f} s: "
            f"{dict(sorted(storm.counts.items()))}\n{verdict}"
        )
    assert verdict.chunks > 0
    assert storm.counts.total() >= faults
