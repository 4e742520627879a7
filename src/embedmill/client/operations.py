"""One definition, two clients: an operation is written once, as a coroutine; on a blocking owner a call of it gives its
result, on an awaiting owner something to await. Type checkers see just that: the descriptors below give each kind of
owner a signature of its own, with the parameters of the one definition. Knows of no network and no endpoint.

A coroutine above BlockingWire never suspends (see wire.py), so one step runs it to its end.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

if TYPE_CHECKING:
    from embedmill.client.jobs import AsyncJob, Job, JobActs

P = ParamSpec("P")
T = TypeVar("T")


class Blocking:
    """An owner whose operations give their results."""


class Awaiting:
    """An owner whose operations are awaited."""


class _Definition:
    """Binds one function to owners of both kinds."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, owner: Any, kind: type) -> Any:
        call = _blocking(self._function) if issubclass(kind, Blocking) else self._function
        return call if owner is None else types.MethodType(call, owner)


class Operation(_Definition, Generic[P, T]):
    """Gives T."""

    def __init__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> None:
        super().__init__(function)

    if TYPE_CHECKING:

        @overload
        def __get__(self, owner: None, kind: type) -> Callable[..., Any]: ...
        @overload
        def __get__(self, owner: Blocking, kind: type) -> Callable[P, T]: ...
        @overload
        def __get__(self, owner: Awaiting, kind: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
        def __get__(self, owner: object, kind: type) -> Any: ...


class Listing(_Definition, Generic[P, T]):
    """Gives many T, one after the other, asked for as they are wanted."""

    def __init__(self, function: Callable[Concatenate[Any, P], AsyncGenerator[T, None]]) -> None:
        super().__init__(function)

    if TYPE_CHECKING:

        @overload
        def __get__(self, owner: None, kind: type) -> Callable[..., Any]: ...
        @overload
        def __get__(self, owner: Blocking, kind: type) -> Callable[P, Generator[T, None, None]]: ...
        @overload
        def __get__(self, owner: Awaiting, kind: type) -> Callable[P, AsyncGenerator[T, None]]: ...
        def __get__(self, owner: object, kind: type) -> Any: ...


class JobOperation(_Definition, Generic[P]):
    """Gives a job of the owner's kind."""

    def __init__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, JobActs]]) -> None:
        super().__init__(function)

    if TYPE_CHECKING:

        @overload
        def __get__(self, owner: None, kind: type) -> Callable[..., Any]: ...
        @overload
        def __get__(self, owner: Blocking, kind: type) -> Callable[P, Job]: ...
        @overload
        def __get__(self, owner: Awaiting, kind: type) -> Callable[P, Coroutine[Any, Any, AsyncJob]]: ...
        def __get__(self, owner: object, kind: type) -> Any: ...


class JobsOperation(_Definition, Generic[P]):
    """Gives several jobs of the owner's kind, at once."""

    def __init__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, list[JobActs]]]) -> None:
        super().__init__(function)

    if TYPE_CHECKING:

        @overload
        def __get__(self, owner: None, kind: type) -> Callable[..., Any]: ...
        @overload
        def __get__(self, owner: Blocking, kind: type) -> Callable[P, list[Job]]: ...
        @overload
        def __get__(
            self, owner: Awaiting, kind: type
        ) -> Callable[P, Coroutine[Any, Any, list[AsyncJob]]]: ...
        def __get__(self, owner: object, kind: type) -> Any: ...


class JobListing(_Definition, Generic[P]):
    """Gives jobs of the owner's kind, one after the other."""

    def __init__(self, function: Callable[Concatenate[Any, P], AsyncGenerator[JobActs, None]]) -> None:
        super().__init__(function)

    if TYPE_CHECKING:

        @overload
        def __get__(self, owner: None, kind: type) -> Callable[..., Any]: ...
        @overload
        def __get__(self, owner: Blocking, kind: type) -> Callable[P, Generator[Job, None, None]]: ...
        @overload
        def __get__(self, owner: Awaiting, kind: type) -> Callable[P, AsyncGenerator[AsyncJob, None]]: ...
        def __get__(self, owner: object, kind: type) -> Any: ...


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Its result, by a single step."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError(
        "an operation of the blocking client has waited for an event loop: this is a bug of embedmill"
    )


@functools.cache
def _blocking(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function for an owner that blocks."""
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        def listing(*args: Any, **kwargs: Any) -> Generator[Any, None, None]:
            return _stepping(function(*args, **kwargs))

        return listing

    @functools.wraps(function)
    def operation(*args: Any, **kwargs: Any) -> Any:
        return run(function(*args, **kwargs))

    return operation


def _stepping(items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    try:
        while True:
            try:
                item = run(_next(items))
            except StopAsyncIteration:
                return
            yield item
    finally:
        run(_close(items))


async def _next(items: AsyncGenerator[T, None]) -> T:
    return await anext(items)


async def _close(items: AsyncGenerator[T, None]) -> None:
    await items.aclose()
