"""`embedmill queue dead-letters`: what failed for good. Owns how letters are shown and dealt with."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from embedmill.cli.options import Text, as_json
from embedmill.cli.queue_acting import describe_redone
from embedmill.cli.queue_filters import (
    bulk,
    confirmed,
    end_progress,
    examples,
    item_id,
    limit,
    refuse_everything,
    show_progress,
)

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.queue.dead_letters import DeadLetter, Letters


class _ListsByDefault(click.Group):
    """`dead-letters` alone, or with options only, lists."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["list", *args]
        return super().parse_args(ctx, args)


_reason = click.option("--reason", type=Text(), help="Letters with this reason, such as input_rejected.")
_pipeline = click.option("--pipeline", "-p", type=Text(), help="Letters of this pipeline.")


@click.group("dead-letters", cls=_ListsByDefault)
def dead_letters() -> None:
    """What failed for good and waits for a person; alone it lists."""


@dead_letters.command("list")
@_reason
@_pipeline
@click.option("--resolved", is_flag=True, help="Also those that were retried or discarded.")
@click.option("--after", type=item_id, help="Go on after this id: the last one of the page before.")
@limit
@as_json
def list_(
    reason: str | None, pipeline: str | None, resolved: bool, after: int | None, limit: int, as_json: bool
) -> None:
    """List dead letters, newest first: items whose attempts are used up, and chunks that a provider refuses."""
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.queue.dead_letters import Letters, list_letters

    async def story(app: App) -> list[DeadLetter]:
        return await list_letters(
            app.database,
            await app.tenant_id(),
            Letters(reason=reason, pipeline=pipeline),
            resolved_too=resolved,
            limit=limit,
            after=after,
        )

    letters = run_with_app(read_settings(), story)
    if as_json:
        print_json(letters)
        return
    _show(letters)
    if len(letters) == limit:
        print(f"more: --after {letters[-1].id}")


@dead_letters.command()
@click.argument("ids", type=item_id, nargs=-1)
@_reason
@_pipeline
@bulk
@as_json
def retry(
    ids: tuple[int, ...],
    reason: str | None,
    pipeline: str | None,
    everything: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Enqueue again what the documents of these letters lack; refused chunks are sent once more. All letters of a
    document are dealt with together."""
    from embedmill.queue.dead_letters import Letters, retry_letters

    chosen = Letters(ids=tuple(dict.fromkeys(ids)), reason=reason, pipeline=pipeline)
    refuse_everything("retry", narrows=chosen.narrows(), everything=everything)
    _act_on(
        chosen, "retry", retry_letters, lambda done: describe_redone(done, "dead letter"),
        dry_run=dry_run, yes=yes, as_json=as_json,
    )  # fmt: skip


@dead_letters.command()
@click.argument("ids", type=item_id, nargs=-1)
@_reason
@_pipeline
@click.option("--note", type=Text(), help="Why, for whoever looks at them later.")
@bulk
@as_json
def discard(
    ids: tuple[int, ...],
    reason: str | None,
    pipeline: str | None,
    note: str | None,
    everything: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Take letters as dealt with. What they are about stays without vectors, and counted as such."""
    from functools import partial

    from embedmill.queue.dead_letters import Letters, discard_letters

    chosen = Letters(ids=tuple(dict.fromkeys(ids)), reason=reason, pipeline=pipeline)
    refuse_everything("discard", narrows=chosen.narrows(), everything=everything)
    act = partial(discard_letters, note=note)
    _act_on(chosen, "discard", act, _describe_discard, dry_run=dry_run, yes=yes, as_json=as_json)


def _act_on(
    chosen: Letters,
    verb: str,
    act: Callable[..., Awaitable[Counter[str]]],
    describe: Callable[[Counter[str]], list[str]],
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Count, ask, do, tell; exit status 1 where a letter that was named could not be served."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.cli.tables import count, enumerate_counts
    from embedmill.queue.dead_letters import count_letters, find_resolutions

    async def story(app: App) -> dict[str, Any] | None:
        tenant_id = await app.tenant_id()
        before = await find_resolutions(app.database, tenant_id, chosen.ids)
        matched = await count_letters(app.database, tenant_id, chosen)
        done: Counter[str] = Counter()
        if matched.items and not dry_run:
            question = f"{verb} {count(matched.items, 'dead letter')} ({enumerate_counts(matched.counts)})?"
            if not confirmed(question, matched.items, yes=yes):
                return None
            done = await act(
                app.database, tenant_id, chosen, actor=local_actor(), on_progress=show_progress("done")
            )
            end_progress(matched.items)
        return {"matched": matched, "done": done, "before": before}

    result = run_with_app(read_settings(), story)
    if result is None:
        print("nothing was changed")
        sys.exit(1)
    matched, done, before = result["matched"], result["done"], result["before"]
    missed = {
        one: f"it was {before[one]} already" if one in before else "there is none"
        for one in chosen.ids
        if one not in before or before[one] is not None
    }
    if as_json:
        print_json(
            {"dry_run": dry_run, "matched": matched.counts, "examples": matched.examples, "done": done,
             "not_possible": missed}
        )  # fmt: skip
    else:
        if dry_run and matched.items:
            print(f"would {verb} {count(matched.items, 'dead letter')}: {enumerate_counts(matched.counts)}")
            print(f"{examples(matched.examples)}; nothing was changed")
        elif matched.items:
            print("\n".join(describe(done) or ["nothing was left to do"]))
        elif not missed:
            print(f"nothing to {verb}: no open dead letter matches")
        for one, why in missed.items():
            print(f"dead letter {one}: {why}")
    if missed:
        sys.exit(1)


def _describe_discard(done: Counter[str]) -> list[str]:
    from embedmill.cli.tables import count

    return [f"discarded {count(done['letters'], 'dead letter')}"]


def _show(letters: list[DeadLetter]) -> None:
    from embedmill.cli.tables import print_below, print_table, since

    if not letters:
        print("no dead letters")
        return
    print_table(
        ("ID", "WHEN", "REASON", "ITEM", "ABOUT"),
        [
            (
                str(letter.id),
                f"{since(letter.created_at)} ago",
                letter.reason + (f" ({letter.resolution})" if letter.resolution else ""),
                str(letter.item_id or ""),
                (letter.document or "a document that is gone")
                + (f", chunk {letter.ordinal + 1}" if letter.ordinal is not None else ""),
            )
            for letter in letters
        ],
        right="ID ITEM",
    )
    print()
    # Many fail for one reason: it is said once, with the letters that say it.
    said: dict[str, list[int]] = {}
    for letter in letters:
        said.setdefault(letter.error_message, []).append(letter.id)
    for message, ids in list(said.items())[:20]:
        more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
        print_below(f"{ids[0]}{more}: {message}", indent=0)
