"""From the bytes of an OpenAI-compatible answer to checked vectors. Owns the decoding, base64 and plain
numbers alike; no network, no retries, and never a word of the content in a message."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedmill.adapters.providers.checking import (
    check_dimensions,
    checked_vectors,
    order_of,
)
from embedmill.errors import BadResponseError
from embedmill.ports import EmbeddingResponse

MOST_TOKENS = 2**53


class _Base64Item(msgspec.Struct):
    embedding: bytes
    index: int | None = None


class _Base64Answer(msgspec.Struct):
    """`usage` and `model` are only looked at: vectors that are paid for and sound are not thrown away for
    a slip beside them."""

    data: list[_Base64Item]
    usage: object = None
    model: object = None


class _FloatItem(msgspec.Struct):
    embedding: list[float]
    index: int | None = None


class _FloatAnswer(msgspec.Struct):
    data: list[_FloatItem]
    usage: object = None
    model: object = None


_base64_decoder = msgspec.json.Decoder(_Base64Answer)
_float_decoder = msgspec.json.Decoder(_FloatAnswer)


def decoded(body: bytes | bytearray, inputs: int, dimensions: int, model: str) -> EmbeddingResponse:
    """The checked answer to a call with so many inputs. Raises BadResponseError for everything that is not
    exactly that."""
    answer = _parsed(body, model)
    items = answer.data
    order = order_of([item.index for item in items])
    if isinstance(answer, _Base64Answer):
        vectors = _from_base64([item.embedding for item in answer.data], dimensions, model)
    else:
        vectors = _from_floats([item.embedding for item in answer.data], dimensions, model)
    if order is not None:
        vectors = vectors[order]
    return EmbeddingResponse(
        vectors=checked_vectors(vectors, inputs, dimensions, model),
        tokens=_tokens(answer.usage),
        model=answer.model if isinstance(answer.model, str) and answer.model else model,
    )


def _parsed(body: bytes | bytearray, model: str) -> _Base64Answer | _FloatAnswer:
    try:
        try:
            return _base64_decoder.decode(body)
        except msgspec.ValidationError:
            return _float_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        # The error's own words can repeat the body; only its kind is passed on.
        kind = (
            "has not the shape of embeddings" if isinstance(error, msgspec.ValidationError) else "is not JSON"
        )
        raise BadResponseError(f"the answer of {model} {kind}; is the base URL an embeddings API?") from None


def _from_base64(blobs: Sequence[bytes], dimensions: int, model: str) -> NDArray[np.float32]:
    for blob in blobs:
        if len(blob) != 4 * dimensions:
            _refuse_size(len(blob), dimensions, model)
    return np.frombuffer(bytearray().join(blobs), "<f4").reshape(len(blobs), dimensions)


def _refuse_size(size_bytes: int, dimensions: int, model: str) -> None:
    if size_bytes % 4:
        raise BadResponseError(f"a vector of {model} has {size_bytes} bytes: not float32 numbers")
    check_dimensions(size_bytes // 4, dimensions, model)


def _from_floats(rows: Sequence[list[float]], dimensions: int, model: str) -> NDArray[np.float32]:
    for row in rows:
        check_dimensions(len(row), dimensions, model)
    # A number beyond float32 becomes infinite here and is refused with the rest.
    with np.errstate(over="ignore"):
        return np.array(rows, np.float64).reshape(len(rows), dimensions).astype(np.float32)


def _tokens(usage: object) -> int | None:
    """What the provider counted, if it says so and it can be true."""
    if not isinstance(usage, dict):
        return None
    for name in ("prompt_tokens", "total_tokens", "input_tokens"):
        count = usage.get(name)
        if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < MOST_TOKENS:
            return count
    return None
