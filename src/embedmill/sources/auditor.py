"""The worker's companion that carries out audits which were ordered, or are due. Owns its rhythm: small batches with a
pause after each, so that it never competes; must not know what an audit looks for."""

from __future__ import annotations

import asyncio
import contextlib

import psycopg
import structlog

from embedmill.database.patience import AWAY
from embedmill.database.pool import Database
from embedmill.errors import EmbedmillError
from embedmill.sources.audit import Audit
from embedmill.sources.audit_kinds import unmended
from embedmill.sources.audits import AuditLostError, order_due_audits, take_ordered_audit
from embedmill.sources.catalog import told

_log = structlog.get_logger(__name__)

LOOK_SECONDS = 10.0
# A batch is followed by as long a pause as it took, times this: an audit has a quarter of one connection's time.
REST_FACTOR = 3.0
LONGEST_REST_SECONDS = 5.0


class _StoppedError(Exception):
    """This worker stops: the batch that was under way is saved."""


class Auditor:
    """Until `stop()`. Of the workers of a fleet any one takes an audit; no two take the same."""

    def __init__(self, database: Database, *, look_seconds: float = LOOK_SECONDS) -> None:
        self._database = database
        self._look_seconds = look_seconds
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """Look, and carry out what there is; what is under way at a stop goes on elsewhere."""
        while not self._stopping.is_set():
            try:
                await order_due_audits(self._database)
                has_worked = await self._carry_one_out()
            except AWAY as error:
                _log.info("audit missed", error=str(error).strip())
                has_worked = False
            if not has_worked:
                await self._pause(self._look_seconds)

    async def _carry_one_out(self) -> bool:
        held = await take_ordered_audit(self._database)
        if held is None:
            return False
        try:
            record = await Audit(self._database, held, rest=self._rest).run()
            level = _log.warning if unmended(record.findings) else _log.info
            level("audit ended", audit_id=record.id, findings={f.kind: f.count for f in record.findings})
        except _StoppedError:
            await held.release()
        except AuditLostError:
            _log.info("audit taken over", audit_id=held.record.id)
        except (EmbedmillError, psycopg.Error) as error:
            if isinstance(error, AWAY):
                raise
            # Its minute runs out, and then it is tried again, for a week.
            _log.error(
                "audit failed",
                audit_id=held.record.id,
                error=told(error) if isinstance(error, psycopg.Error) else str(error),
            )
        return True

    async def _rest(self, seconds: float) -> None:
        await self._pause(min(seconds * REST_FACTOR, LONGEST_REST_SECONDS))
        if self._stopping.is_set():
            raise _StoppedError

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
