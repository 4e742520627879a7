"""Statements that are asked again and again: prepared at their first use on a connection, then one round trip each,
with no cursor in between. Owns that round trip; must not know what is asked, nor begin or end transactions."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import count
from typing import Any, NamedTuple

import psycopg
from psycopg import abc, adapt, pq

_PARAMETER = re.compile(r"%(?:\((\w+)\)s|%)")
_OUTDATED = (psycopg.errors.InvalidSqlStatementName, psycopg.errors.FeatureNotSupported)
_TAKE_BACK_SECONDS = 5.0
_HEARD_SECONDS = 0.1
"""A server that has not read the statement yet does not hear that it is cancelled: it is told again after so long."""
_ANSWERS = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)


class _Prepared(NamedTuple):
    name: bytes
    parameters: tuple[str, ...]  # names, by their numbers
    formats: tuple[adapt.PyFormat, ...]
    transformer: abc.Transformer  # keeps how the columns are read


class AskedConnection(psycopg.AsyncConnection[tuple[Any, ...]]):
    """A connection that also answers `ask`."""

    is_bound_by_policies: bool | None = None
    """Whether row-level security holds for its role on our tables; None: there are none yet."""

    async def ask(self, query: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """All rows of a statement with `%(name)s` parameters, whose types must follow from the statement itself.

        Raises what psycopg raises. Cancelled while the answer is under way, it has the server end the statement; where
        that fails it ends the connection, and whoever shares it through a pool gets another one.
        """
        async with self.lock:
            is_prepared = query in self._statements
            try:
                return await self._ask(query, parameters)
            except _OUTDATED:
                # Another schema than it was prepared for, or psycopg has dropped all statements of the session, as it
                # does after a rollback or a DROP. Outside of a transaction nothing was done by it: it is asked anew.
                self._statements.pop(query, None)
                if not is_prepared or self.pgconn.transaction_status != pq.TransactionStatus.IDLE:
                    raise
                return await self._ask(query, parameters)

    async def _ask(self, query: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        prepared = self._statements.get(query) or await self._prepare(query)
        values = prepared.transformer.dump_sequence(
            [parameters[name] for name in prepared.parameters], prepared.formats
        )
        self.pgconn.send_query_prepared(prepared.name, values, result_format=pq.Format.BINARY)
        result = await self._answer()
        prepared.transformer.set_pgresult(result)
        return prepared.transformer.load_rows(0, result.ntuples, tuple)

    @cached_property
    def _statements(self) -> dict[str, _Prepared]:
        return {}

    @cached_property
    def _numbers(self) -> Iterator[int]:
        return count()

    async def _prepare(self, query: str) -> _Prepared:
        names: list[str] = []

        def number(match: re.Match[str]) -> str:
            if (name := match[1]) is None:
                return "%"
            if name not in names:
                names.append(name)
            return f"${names.index(name) + 1}"

        text = _PARAMETER.sub(number, query)
        prepared = _Prepared(
            b"embedmill_%d" % next(self._numbers),
            tuple(names),
            (adapt.PyFormat.TEXT,) * len(names),
            adapt.Transformer(self),
        )
        self.pgconn.send_prepare(prepared.name, text.encode())
        await self._answer()
        self._statements[query] = prepared
        return prepared

    async def _answer(self) -> pq.abc.PGresult:
        answer: pq.abc.PGresult | None = None
        try:
            while (result := await self._next_result()) is not None:
                answer = answer or result
        except asyncio.CancelledError:
            await self._take_back()
            raise
        if answer is None:
            raise psycopg.OperationalError("the connection ended without an answer")
        if answer.status not in _ANSWERS:
            raise psycopg.errors.error_from_result(answer)
        return answer

    async def _next_result(self) -> pq.abc.PGresult | None:
        connection, loop = self.pgconn, asyncio.get_running_loop()
        socket = connection.socket
        while connection.flush():  # Values larger than the socket takes at once.
            await _readiness(loop, loop.add_writer, loop.remove_writer, socket)
        while connection.is_busy():
            await _readiness(loop, loop.add_reader, loop.remove_reader, socket)
            connection.consume_input()
        return connection.get_result()

    async def _take_back(self) -> None:
        """Nobody waits for the answer any more, which would be taken for that to the next question."""
        try:
            async with asyncio.timeout(_TAKE_BACK_SECONDS):
                while not await self._ends_cancelled():
                    pass
        except (TimeoutError, psycopg.Error, asyncio.CancelledError):
            self.pgconn.finish()

    async def _ends_cancelled(self) -> bool:
        await self.cancel_safe(timeout=_TAKE_BACK_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HEARD_SECONDS):
                while await self._next_result() is not None:
                    pass
                return True
        return False


async def _readiness(
    loop: asyncio.AbstractEventLoop, add: Callable[..., None], remove: Callable[[int], object], socket: int
) -> None:
    future = loop.create_future()
    add(socket, _wake, future)
    try:
        await future
    finally:
        remove(socket)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
