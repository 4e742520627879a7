"""Acts on many items that go on in this process while whoever ordered them looks elsewhere. Owns their tasks, and how
far each has come; must not know what an act does. What is done is committed step by step, and stands in the audit
log: an act whose process ends, ends between two steps, and is ordered again by whoever wants the rest."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from uuid import UUID, uuid4

import structlog

from embedmill.database.patience import AWAY
from embedmill.errors import ConflictError, EmbedmillError, NotFoundError
from embedmill.queue.acting import Progress

_log = structlog.get_logger(__name__)
MOST_AT_ONCE = 4
"""Of one tenant's; each is a stream of transactions."""
_REMEMBERED = 20


class RunningAct:
    """`total` items were meant when it began, `done` are; `counts` once it has ended. `state`: running, done, stopped
    (with the service, or by a person) or failed."""

    def __init__(self, title: str, total: int, actor: str, now: datetime) -> None:
        self.id = uuid4()
        self.title = title
        self.total = total
        self.actor = actor
        self.done = 0
        self.counts: Counter[str] = Counter()
        self.state = "running"
        self.error: str | None = None
        self.began_at = now
        self.ended_at: datetime | None = None
        self._is_stopping = False

    @property
    def percent(self) -> float:
        """Below 100 while it runs: what comes in meanwhile counts too."""
        if self.state == "done":
            return 100.0
        return min(100.0 * self.done / max(self.total, 1), 99.9)

    def stop(self) -> None:
        """End it with the step that is under way."""
        self._is_stopping = True

    def note(self, done: int) -> None:
        """A step is done. Raises _Stopped where no other is to follow."""
        self.done = done
        if self._is_stopping:
            raise _StoppedError


class _StoppedError(Exception):
    """Somebody stopped the act."""


class RunningActs:
    """The acts of one process, by tenant."""

    def __init__(self) -> None:
        self._acts: dict[int, deque[RunningAct]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def of(self, tenant_id: int) -> list[RunningAct]:
        """Those that run, and the last ones that ended; the newest first."""
        return list(self._acts.get(tenant_id, ()))

    def find(self, tenant_id: int, act_id: UUID) -> RunningAct:
        """Raises NotFoundError, also for an act of before the service was started anew."""
        found = next((act for act in self.of(tenant_id) if act.id == act_id), None)
        if found is None:
            raise NotFoundError(
                "this act is not known here: it ran in a service that was started anew since. What it had done is done "
                "and stands in the audit log; order it again for the rest"
            )
        return found

    def begin(
        self,
        tenant_id: int,
        title: str,
        total: int,
        work: Callable[[Progress], Awaitable[Counter[str]]],
        *,
        actor: str,
    ) -> RunningAct:
        """Begin an act, which tells what it has done. Raises ConflictError where the tenant has too many at once."""
        known = self._acts.setdefault(tenant_id, deque(maxlen=_REMEMBERED))
        if self._is_closed or sum(act.state == "running" for act in known) >= MOST_AT_ONCE:
            raise ConflictError("other acts on many items are under way: wait for one of them to end")
        act = RunningAct(title, total, actor, datetime.now(UTC))
        known.appendleft(act)
        task = asyncio.create_task(_run(act, work))
        self._tasks.add(task)
        task.add_done_callback(partial(self._tasks.discard))
        return act

    async def settle(self) -> None:
        """End all, each with the step that is under way."""
        self._is_closed = True
        for acts in self._acts.values():
            for act in acts:
                act.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)


async def _run(act: RunningAct, work: Callable[[Progress], Awaitable[Counter[str]]]) -> None:
    try:
        act.counts = await work(act.note)
        act.state = "done"
    except _StoppedError:
        act.state = "stopped"
    except (EmbedmillError, *AWAY) as error:
        act.state, act.error = "failed", str(error).strip()
        _log.warning("an act on many items failed", act=act.title, error=act.error)
    except BaseException:
        act.state, act.error = "failed", "something went wrong here; it has been logged"
        _log.exception("an act on many items failed", act=act.title)
        raise
    finally:
        act.ended_at = datetime.now(UTC)
