"""`embedmill queue retry|cancel|pause|resume`. Owns what is asked, said and counted around them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from embedmill.cli.options import Text, as_json
from embedmill.cli.queue_filters import (
    bulk,
    confirmed,
    end_progress,
    examples,
    filters,
    item_id,
    refuse_everything,
    selected,
    show_progress,
)

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.queue.administration import Matched, Paused
    from embedmill.queue.selection import Selection


@click.command()
@click.argument("ids", type=item_id, nargs=-1)
@filters
@bulk
@as_json
def retry(
    ids: tuple[int, ...], everything: bool, dry_run: bool, yes: bool, as_json: bool, **chosen: Any
) -> None:
    """Retry failed items, and let those that wait out a failure be taken now.

    A failed item is retried as its document: what that lacks becomes new items. Cancelled ones are retried where
    they are asked for: by id, --batch, --job or --status cancelled. What a provider asked to wait goes on waiting.
    """
    from embedmill.queue import administration

    selection = selected(ids, **chosen)
    refuse_everything("retry", narrows=selection.narrows(), everything=everything)
    _refuse_statuses(selection, "retry", "failed, cancelled, or pending (those that wait out a failure)",
                     {"failed", "cancelled", "pending"})  # fmt: skip
    _act_on(
        selection, "retry", administration.count_retryable, administration.retry_items, _describe_retry,
        dry_run=dry_run, yes=yes, as_json=as_json,
    )  # fmt: skip


@click.command()
@click.argument("ids", type=item_id, nargs=-1)
@filters
@bulk
@as_json
def cancel(
    ids: tuple[int, ...], everything: bool, dry_run: bool, yes: bool, as_json: bool, **chosen: Any
) -> None:
    """Cancel live items, also those in work: their workers write nothing more. Vectors that stand stay."""
    from embedmill.queue import administration

    selection = selected(ids, **chosen)
    refuse_everything("cancel", narrows=selection.narrows(), everything=everything)
    _refuse_statuses(selection, "cancel", "pending, processing or rate_limited",
                     {"pending", "processing", "rate_limited"})  # fmt: skip
    _act_on(
        selection, "cancel", administration.count_cancellable, administration.cancel_items, _describe_cancel,
        dry_run=dry_run, yes=yes, as_json=as_json,
    )  # fmt: skip


@click.command()
@click.option("--pipeline", "-p", type=Text(), help="Only this one. Default: all of the tenant's.")
@as_json
def pause(pipeline: str | None, as_json: bool) -> None:
    """Pause pipelines: nothing of them is claimed any more. What workers hold already goes on to its end."""
    from embedmill.queue import administration

    changed = _switch(pipeline, administration.pause, as_json)
    if changed is None:
        return
    if not changed.pipelines:
        print("nothing to do: paused already")
        return
    from embedmill.cli.tables import count

    print(f"paused {', '.join(changed.pipelines)}: nothing more is claimed until `embedmill queue resume`")
    if changed.items_in_work:
        print(f"{count(changed.items_in_work, 'item')} that workers hold already: these go on to their end")


@click.command()
@click.option("--pipeline", "-p", type=Text(), help="Only this one. Default: all of the tenant's.")
@as_json
def resume(pipeline: str | None, as_json: bool) -> None:
    """Resume paused pipelines."""
    from embedmill.queue import administration

    changed = _switch(pipeline, administration.resume, as_json)
    if changed is not None:
        print(
            f"resumed {', '.join(changed.pipelines)}: workers go on within seconds"
            if changed.pipelines
            else "nothing to do: not paused"
        )


def _switch(pipeline: str | None, change: Callable[..., Awaitable[Paused]], as_json: bool) -> Paused | None:
    """Pause or resume; None where it has been told as JSON."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app

    async def story(app: App) -> Paused:
        tenant_id = await app.tenant_id()
        if pipeline is not None:
            await app.pipeline(pipeline)
        return await change(app.database, tenant_id, pipeline, actor=local_actor())

    changed = run_with_app(read_settings(), story)
    if as_json:
        print_json(changed)
        return None
    return changed


def _act_on(
    selection: Selection,
    verb: str,
    count_matching: Callable[..., Awaitable[Matched]],
    act: Callable[..., Awaitable[Counter[str]]],
    describe: Callable[[Counter[str]], list[str]],
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Count, ask, do, tell; exit status 1 where an item that was named could not be served."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.cli.tables import count, enumerate_counts
    from embedmill.queue.administration import find_whereabouts
    from embedmill.queue.selection import open_scope

    async def story(app: App) -> dict[str, Any] | None:
        scope = await open_scope(app.database, await app.tenant_id(), selection)
        before = await find_whereabouts(app.database, scope)
        matched = await count_matching(app.database, scope)
        done: Counter[str] = Counter()
        if matched.items and not dry_run:
            question = f"{verb} {count(matched.items, 'item')} ({enumerate_counts(matched.counts)})?"
            if not confirmed(question, matched.items, yes=yes):
                return None
            done = await act(app.database, scope, actor=local_actor(), on_progress=show_progress("done"))
            end_progress(matched.items)
        return {"matched": matched, "done": done, "before": before}

    result = run_with_app(read_settings(), story)
    if result is None:
        print("nothing was changed")
        sys.exit(1)
    matched, done = result["matched"], result["done"]
    missed = _missed(selection.ids, result["before"], verb)
    if as_json:
        print_json(
            {"dry_run": dry_run, "matched": matched.counts, "examples": matched.examples, "done": done,
             "not_possible": missed}
        )  # fmt: skip
    else:
        if dry_run and matched.items:
            print(f"would {verb} {count(matched.items, 'item')}: {enumerate_counts(matched.counts)}")
            print(f"{examples(matched.examples)}; nothing was changed")
        elif matched.items:
            print("\n".join(describe(done)))
        elif not missed:
            print(f"nothing to {verb}" + (": nothing matches" if selection.narrows() else ""))
        for one, why in missed.items():
            print(f"item {one}: {why}")
    if missed:
        sys.exit(1)


def _missed(ids: tuple[int, ...], before: dict[int, tuple[str, bool]], verb: str) -> dict[int, str]:
    """Items named by id that the verb has nothing to do with, and why."""
    why: dict[int, str] = {}
    for one in ids:
        status, waits_for_later = before.get(one, ("unknown", False))
        if status == "unknown":
            why[one] = "there is none (`embedmill queue list` shows what there is)"
        elif verb == "cancel" and status in {"completed", "failed", "cancelled"}:
            why[one] = f"it has ended already: {status}"
        elif verb == "retry" and status == "completed":
            why[one] = "it is completed: there is nothing to retry"
        elif verb == "retry" and status == "rate_limited":
            why[one] = "it waits as the provider asked (`embedmill queue explain` says how long)"
        elif verb == "retry" and status == "processing":
            why[one] = "a worker is at it"
        elif verb == "retry" and status == "pending" and not waits_for_later:
            why[one] = "it waits for a worker already (`embedmill queue explain` says why)"
    return why


def _describe_cancel(done: Counter[str]) -> list[str]:
    from embedmill.cli.tables import count, enumerate_counts

    if not done:
        return ["nothing was cancelled: they ended meanwhile"]
    return [f"cancelled {count(done.total(), 'item')}: {enumerate_counts(done)}"]


def _describe_retry(done: Counter[str]) -> list[str]:
    from embedmill.cli.tables import count

    lines = []
    if done["made_due"]:
        lines.append(f"{count(done['made_due'], 'item')} may be taken now instead of later")
    return lines + describe_redone(done, "item") or ["nothing was retried: they went on meanwhile"]


def describe_redone(done: Counter[str], noun: str) -> list[str]:
    """What came of work that was taken up again; `noun` is what it was chosen by."""
    from embedmill.cli.tables import count

    if not done["items"]:
        return []
    lines = [
        f"retried {count(done['items'], noun)} of {count(done['documents'], 'document')}: "
        f"{count(done['enqueued'], 'new item')}"
    ]
    for why, words in (
        ("complete", "have every vector already"),
        ("gone", "are gone: nothing is left to embed"),
        ("unreadable", "cannot be read any more: ingest their files again"),
        ("being_deleted", "are about to be deleted"),
        ("back", "came back after their deletion was asked for: they stay"),
    ):
        if done[why]:
            lines.append(f"{count(done[why], 'document')}: {words}")
    return lines


def _refuse_statuses(selection: Selection, verb: str, possible: str, wanted: set[str]) -> None:
    wrong = [status.value for status in selection.statuses if status.value not in wanted]
    if wrong:
        raise click.UsageError(f"--status {wrong[0]}: {verb} is for {possible}.")
