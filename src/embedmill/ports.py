"""Every seam on one page: what the stages need from the outside. Owns protocols and their values only;
adapters implement them, `app.py` chooses. Must not import an adapter, a driver or a stage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable
from uuid import UUID

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedmill.core.documents import Chunk, ChunkPlan, ParsedDocument
from embedmill.errors import DocumentError

Vectors = NDArray[np.float32]
"""Shape (inputs, dimensions), float32, C-contiguous."""


class Purpose(StrEnum):
    """Some models embed a query otherwise than a document; a caller always says which it has."""

    DOCUMENT = "document"
    QUERY = "query"


class ProviderLimits(msgspec.Struct, frozen=True):
    """What one call, and one input, may hold."""

    max_inputs_per_call: int
    max_tokens_per_call: int
    max_tokens_per_input: int


class EmbeddingResponse(msgspec.Struct, frozen=True):
    """A checked answer: `vectors[i]` belongs to input i; `tokens` is what the provider says it counted
    (None where it does not say). `exhausted_seconds`: with this call a limit was used up, for so long."""

    vectors: Vectors
    tokens: int | None
    model: str
    exhausted_seconds: float | None = None


@runtime_checkable
class EmbeddingProvider(Protocol):
    """Turns texts into vectors. One conformance suite holds every implementation (tests/conformance)."""

    @property
    def model(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    @property
    def limits(self) -> ProviderLimits: ...

    async def embed(self, inputs: Sequence[str], purpose: Purpose) -> EmbeddingResponse:
        """Embed the inputs in one call.

        Returns vectors of shape (len(inputs), dimensions), finite, in the order of the inputs. An empty
        list gives shape (0, dimensions) without a call. Raises a ProviderError, and nothing else, when it
        cannot; a wrong answer is a BadResponseError, never a result. Cancelling the task ends the call.
        """
        ...

    async def aclose(self) -> None: ...


@runtime_checkable
class TokenCounter(Protocol):
    """Counts tokens as a model does, the special tokens it adds to each input included."""

    @property
    def name(self) -> str: ...

    def count(self, texts: Sequence[str]) -> list[int]: ...


@runtime_checkable
class Parser(Protocol):
    """Turns bytes on disk into text. Runs only inside the limited parsing process."""

    def parse(self, path: str, media_type: str) -> ParsedDocument:
        """Raises DocumentError with its reason when the file cannot be read as text."""
        ...


class CutDocument(msgspec.Struct, frozen=True):
    """A text as it is stored, and its chunks by one plan."""

    document: ParsedDocument
    chunks: tuple[Chunk, ...]


@runtime_checkable
class Cutter(Protocol):
    """Cuts texts that need no parsing: rows, shards, what was parsed before. Runs in the limited process."""

    async def cut(
        self, documents: Sequence[ParsedDocument], plan: ChunkPlan, spec: ProviderSpec
    ) -> list[CutDocument | DocumentError]:
        """For each text, in order, its chunks as the model of `spec` counts tokens, or why there are none
        (`empty`, `too_large`, ...): no text costs its neighbours anything. Raises ConfigurationError where a
        part is missing and nothing could be cut."""
        ...

    async def whole_plan(self, spec: ProviderSpec) -> ChunkPlan:
        """One chunk of all of a text, as long as the model reads; longer texts are refused as `too_long`. Raises
        ConfigurationError where the model is not there."""
        ...

    async def aclose(self) -> None: ...


def original_key(tenant_id: int, job_id: UUID) -> str:
    """Where the original of a job stands: "tenants/<id>/<uuid>". Nothing that a user wrote is in it."""
    return f"tenants/{tenant_id:d}/{job_id!s}"


class StoredOriginal(msgspec.Struct, frozen=True):
    """An original that stands whole in its store: `sha256` is of its `size_bytes` bytes (32 bytes, raw)."""

    key: str
    size_bytes: int
    sha256: bytes


@runtime_checkable
class Originals(Protocol):
    """Keeps what was uploaded, byte for byte, under keys of `original_key`. An original is there whole or not
    at all, and is never whole in memory. One conformance suite holds every implementation (tests/conformance).

    Every method raises StorageError, and no error of a driver, where the store cannot do what is asked.
    """

    async def put(self, key: str, chunks: AsyncIterator[bytes], *, max_bytes: int) -> StoredOriginal:
        """Store what comes; what stood under the key before is replaced at the end, at once.

        Raises DocumentError(`too_large`) as soon as more than `max_bytes` came, and whatever the reader raises.
        After an error or a cancellation nothing is left of it.
        """
        ...

    async def get_to(self, key: str, path: Path) -> None:
        """Write the original to the path, which is made or replaced at the end. StorageError(`missing`)."""
        ...

    def open_path(self, key: str) -> AbstractAsyncContextManager[Path]:
        """A local file with the original, for reading only, until the context is left. StorageError(`missing`)."""
        ...

    async def delete(self, key: str) -> None:
        """Remove the original, or the remains of an upload; one that is not there is fine."""
        ...

    def list_older(self, prefix: str, before: datetime) -> AsyncIterator[str]:
        """Keys under the prefix ("tenants/" or "tenants/<id>/") last written before that time, for a sweep of
        what no job names; among them the remains of uploads whose process died."""
        ...

    async def check(self) -> None:
        """Write, read and remove a probe. Raises StorageError with what to do where that fails."""
        ...


class ProviderSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that decides a vector besides the text: the part of a pipeline that an adapter is built from.

    `params`, `query_params` and `document_params` are merged into the request body (JSON values);
    the prefixes are put before the text. `tokenizer` names an encoding ("cl100k_base"), a tokenizer.json
    or a model folder; None lets the adapter choose by the model. Limits of None are the model's own.
    """

    provider: str
    model: str
    dimensions: int
    base_url: str | None = None
    api_key_env: str | None = None
    params: dict[str, object] = {}
    query_params: dict[str, object] = {}
    document_params: dict[str, object] = {}
    query_prefix: str = ""
    document_prefix: str = ""
    tokenizer: str | None = None
    max_inputs_per_call: int | None = None
    max_tokens_per_call: int | None = None
    max_tokens_per_input: int | None = None
    timeout_seconds: float = 60.0


class ProviderCall(msgspec.Struct, frozen=True):
    """One call that is over: what was asked of whom, and what came of it. `outcome` is ok, rate_limited, unavailable,
    rejected, refused, bad_response or cancelled; `tokens` as the provider counted them. No content, no message."""

    spec: ProviderSpec
    purpose: Purpose
    inputs: int
    tokens: int | None
    model: str | None
    seconds: float
    outcome: str


class Span(Protocol):
    """A piece of work that is under way."""

    def name(self, name: str) -> None:
        """What it is called, where that is known at its end only."""
        ...

    def note(self, **facts: str | int | float) -> None:
        """What is known of it by now: numbers, ids, names of our own; never content or a secret."""
        ...

    def fail(self, kind: str) -> None:
        """It came to nothing; `kind` is one of few."""
        ...


class Telemetry(Protocol):
    """Is told what happens, a batch or a call at a time and never a chunk. Every method returns at once, waits for
    nobody and raises nothing; without an adapter (SILENT) they do nothing. Seconds are durations."""

    def claimed(self, *, items: int, seconds: float) -> None:
        """A claim was made, with or without items."""
        ...

    def called(self, call: ProviderCall) -> None:
        """A provider was called."""
        ...

    def wrote(self, *, vectors: int, seconds: float) -> None:
        """What a call brought was committed."""
        ...

    def reused(self, *, vectors: int) -> None:
        """Vectors of equal texts were copied."""
        ...

    def returned(self, *, items: int, reason: str) -> None:
        """Items went back to the queue."""
        ...

    def rescued(self, *, items: int) -> None:
        """Items of dead workers came free."""
        ...

    def parsed(self, *, outcome: str, seconds: float) -> None:
        """A parser is done with a document: ok, failed or returned."""
        ...

    def delivered(self, *, outcome: str, seconds: float) -> None:
        """A webhook was called: delivered, waiting or failed."""
        ...

    def answered(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """An answer to a request began."""
        ...

    def span(
        self, name: str, *, parent: str | None = None, **facts: str | int | float
    ) -> AbstractContextManager[Span]:
        """The work of this block; what is called or written within it belongs to it. `parent` is a W3C traceparent
        that came with a request."""
        ...

    def close(self) -> None:
        """Send what is not sent yet, for a few seconds at the most."""
        ...


class _SilentSpan:
    def __enter__(self) -> Span:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def name(self, name: str) -> None:
        pass

    def note(self, **facts: str | int | float) -> None:
        pass

    def fail(self, kind: str) -> None:
        pass


_SILENT_SPAN = _SilentSpan()


class SilentTelemetry:
    """Tells nobody."""

    def claimed(self, *, items: int, seconds: float) -> None:
        pass

    def called(self, call: ProviderCall) -> None:
        pass

    def wrote(self, *, vectors: int, seconds: float) -> None:
        pass

    def reused(self, *, vectors: int) -> None:
        pass

    def returned(self, *, items: int, reason: str) -> None:
        pass

    def rescued(self, *, items: int) -> None:
        pass

    def parsed(self, *, outcome: str, seconds: float) -> None:
        pass

    def delivered(self, *, outcome: str, seconds: float) -> None:
        pass

    def answered(self, *, method: str, route: str, status: int, seconds: float) -> None:
        pass

    def span(
        self, name: str, *, parent: str | None = None, **facts: str | int | float
    ) -> AbstractContextManager[Span]:
        return _SILENT_SPAN

    def close(self) -> None:
        pass


SILENT: Telemetry = SilentTelemetry()


class Fetched(Protocol):
    """What stands at an address, while it is being fetched. The server's words are not to be trusted: a name is
    cleaned (no folders, no control characters, at most 255 bytes), the rest is as the server says."""

    @property
    def name(self) -> str: ...

    @property
    def media_type(self) -> str | None: ...

    @property
    def final_url(self) -> str:
        """Where the redirects led."""
        ...

    @property
    def size_bytes(self) -> int | None:
        """None where the server does not say, or sends it compressed."""
        ...

    @property
    def etag(self) -> str | None: ...

    @property
    def last_modified(self) -> str | None: ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, unpacked, once. Raises as Fetcher.fetch does; what came before an error is not the whole."""
        ...


@runtime_checkable
class Fetcher(Protocol):
    """Fetches documents from addresses that a user names."""

    def fetch(self, url: str) -> AbstractAsyncContextManager[Fetched]:
        """Open the address and follow it. The connection is closed with the block.

        Raises AddressRefusedError for an address that we do not talk to; DocumentError("too_large") beyond the
        limit; DocumentError("unreadable") where the server refuses or answers nonsense; and
        SourceUnavailableError where it may answer later.
        """
        ...


class PostAnswer(msgspec.Struct, frozen=True):
    """What came back. `status` is None where no answer came, and `problem` says why, or how the answer began."""

    status: int | None
    problem: str | None = None
    retry_after_seconds: float | None = None


@runtime_checkable
class WebhookPoster(Protocol):
    """Sends to addresses that a tenant names."""

    async def check(self, url: str) -> None:
        """Raises AddressRefusedError for an address that will never be sent to, or that has no host now."""
        ...

    async def post(self, url: str, *, headers: Mapping[str, str], body: bytes) -> PostAnswer:
        """POST the body; redirects are answers. Ends within the poster's own time limit, and raises nothing but
        the cancellation of its task."""
        ...
