"""The candidates of a search, by vector and by words. Owns which questions are put to the server at once (decision
0099); must not know how the lists are fused, nor what is shown of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import zip_longest
from typing import Any, NamedTuple

import psycopg

from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries

_SQL = load_queries("embedmill.search", "candidates.sql")
# From so many documents on their vectors are compared by two sessions, each a half: some two milliseconds for each.
_MANY_DOCUMENTS = 1000

Scored = list[tuple[int, float]]
"""(chunk, score), best first."""


class Asked(NamedTuple):
    """The best `number` of a generation by `vector` and by `words`, of which either may not be asked for. `where`:
    `document_id`, `source` (as LIKE reads it) and `metadata` (JSON); None of each: any."""

    generation_id: int
    vector: str | None
    words: str | None
    number: int
    where: Mapping[str, Any]


class Lists(NamedTuple):
    """What was found, how long each list took, and all together. `chance`: the similarity of what has nothing to do
    with the query, where both lists are asked for and it is known."""

    by_vector: Scored
    by_text: Scored
    chance: float | None
    vector_seconds: float
    text_seconds: float
    seconds: float


class _Answer(NamedTuple):
    rows: list[tuple[Any, ...]]
    seconds: float


async def find_candidates(database: Database, connection: Connection, asked: Asked) -> Lists:
    """Both lists, within the transaction of `connection` and another one where the pool has one to spare."""
    began_at = time.monotonic()
    values = {**asked._asdict(), **asked.where, "share": None, "documents": None}
    count = None
    if asked.vector is not None and any(one is not None for one in asked.where.values()):
        row = (await _ask("passing", values, connection)).rows[0]
        values |= {"share": row[0], "documents": row[1]}
        count = row[2]
    passed_in = time.monotonic() - began_at

    by_vector = [] if asked.vector is None else _vector_questions(values, count, halved=asked.words is None)
    by_text = [] if asked.words is None else [partial(_ask, "by_text", values)]
    chance = [partial(_ask, "similarity_of_chance", values)] if by_vector and by_text else []
    answers = await _at_once(database, connection, [*by_vector, *by_text, *chance])

    similar, worded = answers[: len(by_vector)], answers[len(by_vector) :]
    return Lists(
        sorted((row for answer in similar for row in answer.rows), key=lambda row: -row[1])[: asked.number],
        worded[0].rows if by_text else [],
        worded[1].rows[0][0] if chance else None,
        passed_in + max((answer.seconds for answer in similar), default=0.0),
        worded[0].seconds if by_text else 0.0,
        time.monotonic() - began_at,
    )


_Question = Callable[[Connection], Awaitable[_Answer]]


def _vector_questions(values: Mapping[str, Any], count: int | None, *, halved: bool) -> list[_Question]:
    """One, or one for each half of many documents."""
    parts = [(1, count or 1)]
    if halved and count is not None and count >= _MANY_DOCUMENTS:
        parts = [(1, count // 2), (count // 2 + 1, count)]
    return [partial(_ask, "by_vector", {**values, "first": first, "last": last}) for first, last in parts]


async def _at_once(
    database: Database, connection: Connection, questions: Sequence[_Question]
) -> list[_Answer]:
    """Their answers: every other question goes over a second connection, where one is spare."""
    own, others = await asyncio.gather(
        _in_turn(questions[::2], connection), _over_spare(database, questions[1::2]), return_exceptions=True
    )
    # Both have ended by now: neither is left to use a connection that is given back.
    if isinstance(own, BaseException):
        raise own
    if isinstance(others, BaseException):
        raise others
    if others is None:
        others = await _in_turn(questions[1::2], connection)
    return [answer for pair in zip_longest(own, others) for answer in pair if answer is not None]


async def _over_spare(database: Database, questions: Sequence[_Question]) -> list[_Answer] | None:
    """None where they have to be asked over the connection that there is. The transaction ends with the last answer:
    who waits to drop a table waits for both, and who comes after him for him, a ring that no server sees."""
    if not questions:
        return []
    async with database.spare_transaction() as spare:
        if spare is None:
            return None
        with suppress(psycopg.errors.LockNotAvailable):
            return await _in_turn(questions, spare)
    return None


async def _in_turn(questions: Sequence[_Question], connection: Connection) -> list[_Answer]:
    return [await question(connection) for question in questions]


async def _ask(name: str, values: Mapping[str, Any], connection: Connection) -> _Answer:
    began_at = time.monotonic()
    rows = await (await connection.execute(_SQL[name], values)).fetchall()
    return _Answer(rows, time.monotonic() - began_at)
