"""Every seam on one page: what the stages need from the outside. Owns protocols and their values only;
adapters implement them, `app.py` chooses. Must not import an adapter, a driver or a stage."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedmill.core.documents import ParsedDocument

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
