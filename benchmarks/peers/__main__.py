"""Bulk embedding of the same texts by embedmill, by a bare loop, and by pgai, CocoIndex, LlamaIndex and LangChain: one
server, one provider stand-in (1536 dimensions, calls of up to 2,048 inputs), one run, turn by turn, medians and ratios.

    python -m benchmarks.peers [--texts 24000] [--rounds 2] [--latencies 50 0] [--systems NAME ...] [--install]

Each system has a database of its own for each turn, and starts up before its clock runs. Afterwards the vectors are
counted, and some compared with those that the provider serves. Peers get ready texts, in a table or a list. Ours cuts
them itself (documents), finds them again as rows change (table), and indexes them for full text; only of what was
launched from its preview (launched) that stands before. `work` is the processors' time for each row, of a system's own
processes and of the server: on two cores, what binds where no call is waited for. Peers live in environments of their
own under .peers/ (`--install` makes them); one that is not there is left out, and the result says why.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.provider import start_provider

from benchmarks.peers.installing import install, version_of, why_missing
from benchmarks.peers.protocol import DIMENSIONS
from benchmarks.peers.systems import LIMIT, SYSTEMS, System
from benchmarks.peers.texts import texts_of, write_files
from benchmarks.peers.turns import Stage, Turn, TurnError, take_turn
from benchmarks.results import save_result, show_table
from benchmarks.servers import benchmark_database

SEED = 7


def main() -> None:
    options = read_options()
    # So that the server is stopped and its files go, also where somebody ends the run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = [system for system in SYSTEMS if system.name in options.systems]
    left_out = missing(chosen, installs=options.install)
    turns = take_turns([system for system in chosen if system.name not in left_out], options, left_out)
    rows = [row for latency_ms in options.latencies for row in compared(turns, latency_ms)]
    show_table(
        "Rows a second, medians (ours at 50 ms: at least 10 times the best peer, 0.6 of the bare loop)", rows
    )
    if options.systems == names():
        save_result("peers", rows, vars(options) | {"left_out": left_out, "load_after": os.getloadavg()[0]})


def missing(chosen: list[System], *, installs: bool) -> dict[str, str]:
    """Who cannot take part, and why."""
    left_out = {}
    for system in chosen:
        why = install(system) if installs and system.is_peer else None
        if why := why or why_missing(system):
            left_out[system.name] = why
            print(f"without {system.name}: {why}", flush=True)
    return left_out


def take_turns(present: list[System], options: argparse.Namespace, left_out: dict[str, str]) -> list[Turn]:
    """One system after the other, again and again; one that fails is left out from there on."""
    turns = []
    with (
        tempfile.TemporaryDirectory() as folder,
        benchmark_database() as url,
        start_provider(dimensions=DIMENSIONS) as provider,
    ):
        write_files(Path(folder), options.texts, SEED)
        stage = Stage(url, provider, asyncio.run(texts_of(Path(folder))), Path(folder))
        print(f"{len(stage.texts):,} texts; load {os.getloadavg()[0]:.2f}", flush=True)
        for latency_ms in options.latencies:
            for _ in range(options.rounds):
                for system in present:
                    if system.name in left_out:
                        continue
                    try:
                        turns.append(take_turn(system, stage, latency_ms))
                    except TurnError as error:
                        left_out[system.name] = str(error)
                        print(f"without {system.name}: {error}", flush=True)
                    else:
                        print(
                            f"{system.name} at {latency_ms} ms: {turns[-1].rows_per_second:,.0f} rows/s",
                            flush=True,
                        )
    return turns


def compared(turns: list[Turn], latency_ms: int) -> Iterator[dict[str, Any]]:
    """A row for each system, beside the fastest peer and the bare loop."""
    of_system: dict[System, list[Turn]] = {}
    for turn in turns:
        if turn.latency_ms == latency_ms:
            of_system.setdefault(turn.system, []).append(turn)
    rates = {system: statistics.median(t.rows_per_second for t in some) for system, some in of_system.items()}
    best_peer = max((rate for system, rate in rates.items() if system.is_peer), default=None)
    limit = next((rate for system, rate in rates.items() if system.driver == LIMIT), None)
    for system, some in of_system.items():
        yield {
            "system": system.name,
            "latency_ms": latency_ms,
            "rows_per_second": round(rates[system]),
            "lowest": round(min(t.rows_per_second for t in some)),
            "highest": round(max(t.rows_per_second for t in some)),
            "times_best_peer": round(rates[system] / best_peer, 1) if best_peer else None,
            "of_bare_loop": round(rates[system] / limit, 3) if limit else None,
            "start_seconds": round(statistics.median(t.start_seconds for t in some), 1),
            "calls": round(statistics.median(t.calls for t in some)),
            "own_work_ms_a_row": round(statistics.median(t.work.system for t in some), 3),
            "server_work_ms_a_row": round(statistics.median(t.work.server for t in some), 3),
            "provider_work_ms_a_row": round(statistics.median(t.work.provider for t in some), 3),
            "version": version_of(system),
            "settings": some[0].settings,
        }


def names() -> list[str]:
    return [system.name for system in SYSTEMS]


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    parser.add_argument("--texts", type=int, default=24_000, help="about so many; it depends on where we cut")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--latencies", type=int, nargs="+", default=[50, 0], help="of the provider, milliseconds"
    )
    parser.add_argument("--systems", nargs="+", default=names(), choices=names(), metavar="NAME")
    parser.add_argument("--install", action="store_true", help="make the peers' environments first")
    return parser.parse_args()


if __name__ == "__main__":
    main()
