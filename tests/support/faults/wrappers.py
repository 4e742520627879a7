"""Wraps the product's own functions inside a worker's process: ends or stops it at a chosen step, keeps a journal of
its calls, and tells the database which leases a transaction shows. Owns the wrapping; must not change what a
wrapped function does, and must fail where a name is gone: a fault that never comes proves nothing.

FAULT_AT=persist:3 and FAULT=kill|stop: at the third time that this step is reached.
    grant           the quota was granted, the provider not yet asked
    claim           items are claimed (committed), nothing is loaded
    response        the provider has answered, nothing is written
    persist         vectors, ledger and ends are written, COMMIT is not sent
    commit          COMMIT is done, its answer not seen
CRASH_JOURNAL=path, CLOCK_SKEW_SECONDS=-7200.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from hashlib import blake2b
from typing import Any

STEPS = ("grant", "claim", "response", "persist", "commit")
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
_writing: ContextVar[bool] = ContextVar("writing", default=False)


class Journal:
    """Lines of JSON, each in one write to the end of the file: what is written survives a kill."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def note(self, what: str, **facts: object) -> None:
        line = json.dumps({"what": what, "at": time.monotonic(), **facts})
        os.write(self._file, line.encode() + b"\n")


class Trap:
    """Ends or stops this process the n-th time that its step is reached."""

    def __init__(self, journal: Journal, at: str, fault: str) -> None:
        self._journal = journal
        self._step, _, number = at.partition(":")
        self._number = int(number or 1)
        if at and (self._step not in STEPS or fault not in _SIGNALS):
            raise ValueError(f"no such fault: FAULT_AT={at} FAULT={fault}")
        self._fault = fault
        self._reached: Counter[str] = Counter()

    def reach(self, step: str) -> None:
        self._reached[step] += 1
        if step == self._step and self._reached[step] == self._number:
            self._journal.note("fault", step=step, fault=self._fault)
            os.kill(os.getpid(), _SIGNALS[self._fault])


def install(environment: Mapping[str, str]) -> None:
    """Wrap everything. Raises (ImportError, AttributeError, ...) where a name has gone."""
    if skew_seconds := float(environment.get("CLOCK_SKEW_SECONDS", "0")):
        from tests.support.faults.clocks import skew

        skew(skew_seconds)
    journal = Journal(environment["CRASH_JOURNAL"])
    trap = Trap(journal, environment.get("FAULT_AT", ""), environment.get("FAULT", ""))
    importlib.import_module("embedmill.worker.loop")
    _wrap("embedmill.queue.quotas", "grant_quota", lambda f: _granted(f, trap))
    _wrap("embedmill.queue.items", "claim_items", lambda f: _claimed(f, trap))
    _wrap("embedmill.queue.items", "hold_items", _showing_leases)
    _wrap_method("embedmill.embed.persistence", "Persistence._hold", _showing_leases)
    _wrap_method(
        "embedmill.adapters.providers.openai", "OpenAIProvider.embed", lambda f: _asked(f, journal, trap)
    )
    _wrap_method("embedmill.embed.persistence", "Persistence.write_response", lambda f: _written(f, journal))
    _wrap_method("embedmill.embed.persistence", "Persistence.record_call", lambda f: _recorded(f, journal))
    _wrap_method("embedmill.database.pool", "Database.transaction", lambda f: _committed(f, trap))


def _wrap(module_name: str, name: str, wrap: Callable[[Any], Any]) -> None:
    """Exchange a function wherever it was imported to."""
    original = getattr(importlib.import_module(module_name), name)
    wrapped = wrap(original)
    for module in [m for n, m in sys.modules.items() if n.startswith("embedmill")]:
        for alias, value in list(vars(module).items()):
            if value is original:
                setattr(module, alias, wrapped)


def _wrap_method(module_name: str, name: str, wrap: Callable[[Any], Any]) -> None:
    class_name, _, method = name.partition(".")
    owner = getattr(importlib.import_module(module_name), class_name)
    original = vars(owner)[method]
    if isinstance(original, staticmethod):
        setattr(owner, method, staticmethod(wrap(original.__func__)))
    else:
        setattr(owner, method, wrap(original))


def _granted(original: Callable[..., Awaitable[float]], trap: Trap) -> Callable[..., Awaitable[float]]:
    async def grant_quota(*args: Any, **named: Any) -> float:
        wait = await original(*args, **named)
        if wait == 0:
            trap.reach("grant")
        return wait

    return grant_quota


def _claimed(
    original: Callable[..., Awaitable[list[Any]]], trap: Trap
) -> Callable[..., Awaitable[list[Any]]]:
    async def claim_items(*args: Any, **named: Any) -> list[Any]:
        items = await original(*args, **named)
        if items:
            trap.reach("claim")
        return items

    return claim_items


def _showing_leases(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Tell the observer's triggers what this transaction believes to hold."""

    async def hold_items(connection: Any, items: Any) -> Any:
        shown = json.dumps({str(item.id): item.lease_token for item in items})
        await connection.execute("SELECT set_config('crash.leases', %s, true)", (shown,))
        return await original(connection, items)

    return hold_items


def digests(texts: list[str]) -> list[str]:
    """As the stand-in names texts (tests.support.provider.digest_of), without importing it into a worker."""
    return [blake2b(text.encode(), digest_size=16).hexdigest() for text in texts]


def _asked(
    original: Callable[..., Awaitable[Any]], journal: Journal, trap: Trap
) -> Callable[..., Awaitable[Any]]:
    calls = iter(range(1, sys.maxsize))

    async def embed(self: Any, inputs: Any, *args: Any, **named: Any) -> Any:
        call = next(calls)
        journal.note("begun", call=call, texts=digests(list(inputs)))
        try:
            response = await original(self, inputs, *args, **named)
        except BaseException as error:
            charged = bool(getattr(error, "charged", True))
            journal.note("refused", call=call, charged=charged, error=f"{type(error).__name__}: {error}")
            raise
        journal.note("answered", call=call)
        trap.reach("response")
        return response

    return embed


def _written(original: Callable[..., Awaitable[Any]], journal: Journal) -> Callable[..., Awaitable[Any]]:
    async def write_response(self: Any, call: Any, units: Any, *args: Any, **named: Any) -> Any:
        texts = digests([unit.text for unit in units])
        journal.note("writing", id=str(call.id), texts=texts, inputs=call.inputs, tokens=call.tokens)
        token = _writing.set(True)
        try:
            outcome = await original(self, call, units, *args, **named)
        finally:
            _writing.reset(token)
        journal.note("written", id=str(call.id))
        return outcome

    return write_response


def _recorded(original: Callable[..., Awaitable[None]], journal: Journal) -> Callable[..., Awaitable[None]]:
    """Calls that bring no vectors: refused ones, and trials whether a provider takes anything."""

    async def record_call(self: Any, call: Any, *args: Any, **named: Any) -> None:
        facts = {"id": str(call.id), "inputs": call.inputs, "tokens": call.tokens, "error": call.error}
        journal.note("recording", **facts)
        await original(self, call, *args, **named)
        journal.note("recorded", **facts)

    return record_call


def _committed(original: Callable[[Any], Any], trap: Trap) -> Callable[[Any], Any]:
    @asynccontextmanager
    async def transaction(self: Any) -> AsyncIterator[Any]:
        async with original(self) as connection:
            yield connection
            if _writing.get():
                trap.reach("persist")
        if _writing.get():
            trap.reach("commit")

    return transaction
