"""`embedmill audit`: what fails in silence, and its repair. Owns how it is shown; what it looks for is the audit's."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from embedmill.cli.options import Text, as_json

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.sources.audit import AuditProgress
    from embedmill.sources.audit_kinds import Finding
    from embedmill.sources.audits import AuditRecord

_MOST_EXAMPLES = 20


@click.command()
@click.option("--source", type=Text(), help="Only this table or shard feed, e.g. public.jobs.")
@click.option("--pipeline", "-p", type=Text(), help="Only this pipeline.")
@click.option(
    "--repair", is_flag=True, help="Set right what is found; vectors that are missing are paid for."
)
@click.option(
    "--examples",
    type=click.IntRange(0, _MOST_EXAMPLES),
    default=5,
    show_default=True,
    help="How many of each kind are shown.",
)
@as_json
def audit(source: str | None, pipeline: str | None, repair: bool, examples: int, as_json: bool) -> None:
    """Find what is said to be done and is not, what is embedded as it once was, and what nobody will come to.

    Looks through all rows, documents and vectors in small batches; workers and writers go on meanwhile. Cut off, the
    same command goes on where it was. Ends with 0 where all is well or was set right, else with 1."""
    from embedmill.cli.running import print_json, run_with_app, start
    from embedmill.sources.audit_kinds import unmended

    settings = start()

    async def story(app: App) -> AuditRecord:
        return await _carry_out(app, source=source, pipeline=pipeline, repair=repair)

    record = run_with_app(settings, story)
    if as_json:
        print_json(_facts(record, examples))
    else:
        _show(record, examples)
    if unmended(record.findings):
        sys.exit(1)


async def _carry_out(app: App, *, source: str | None, pipeline: str | None, repair: bool) -> AuditRecord:
    from embedmill.cli.actor import local_actor
    from embedmill.errors import ConflictError
    from embedmill.sources.audit import Audit
    from embedmill.sources.audits import AuditLostError, begin_audit, find_scope

    scope = await find_scope(app.database, await app.tenant_id(), pipeline=pipeline, source=source)
    held = await begin_audit(app.database, scope, mends="all" if repair else "nothing", actor=local_actor())
    screen = _Screen()
    try:
        return await Audit(app.database, held, on_progress=screen.tell).run()
    except AuditLostError as error:
        raise ConflictError("this audit was taken up by another `embedmill audit`: run it again") from error
    except BaseException:
        # It goes on with the next call.
        with contextlib.suppress(Exception):
            await held.release()
        raise
    finally:
        screen.clear()


class _Screen:
    """One line of standard error that says how far it has come; nothing where that is no terminal."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._width = 0

    def tell(self, progress: AuditProgress) -> None:
        if not self._is_terminal:
            return
        found = sum(finding.count for finding in progress.findings)
        step, _, which = progress.step.partition(":")
        line = (
            f"{progress.step_number} of {progress.steps}: {step.replace('_', ' ')} {which}  "
            f"{progress.looked:,} looked at, {found:,} found"
        )
        self._write(line)

    def clear(self) -> None:
        if self._is_terminal:
            self._write("")
            sys.stderr.write("\r")

    def _write(self, line: str) -> None:
        sys.stderr.write("\r" + line.ljust(self._width))
        sys.stderr.flush()
        self._width = len(line)


def _facts(record: AuditRecord, examples: int) -> dict[str, Any]:
    return {
        "audit_id": record.id,
        "pipeline": record.pipeline,
        "source": record.source,
        "is_repair": record.is_repair,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "looked": record.looked,
        "findings": [
            {
                "kind": finding.kind,
                "count": finding.count,
                "mended": finding.mended,
                "examples": finding.examples[:examples],
            }
            for finding in record.findings
        ],
    }


def _show(record: AuditRecord, examples: int) -> None:
    from embedmill.cli.tables import count, print_below, print_table
    from embedmill.sources.audit_kinds import KINDS, unmended

    where = record.source or record.pipeline
    whose = f" in {where}" if where else ""
    if not record.findings:
        print(f"nothing is wrong{whose}: {count(record.looked, 'row')}, documents and vectors looked at")
        return
    found: Sequence[Finding] = record.findings
    print_table(
        ("what is wrong", "found", "mended", "what it is"),
        [
            (
                each.kind.replace("_", " "),
                f"{each.count:,}",
                f"{each.mended:,}",
                f"{KINDS[each.kind].counts}: {KINDS[each.kind].meaning}",
            )
            for each in found
        ],
        right="found mended",
    )
    for finding in found:
        if not examples or not finding.examples:
            continue
        print(f"\n{finding.kind.replace('_', ' ')}:")
        for example in finding.examples[:examples]:
            what = f"{example.source} {example.id}" if example.source else example.id
            print_below(f"{what}: {example.detail}" if example.detail else what, indent=2)
        left = finding.count - finding.mended
        if left:
            print_below(f"`embedmill audit --repair`: {KINDS[finding.kind].repair}", indent=2, wrap=True)
    print()
    rest = unmended(found)
    print(f"{count(rest, 'fault')} left{whose}" if rest else f"all of it was set right{whose}")
