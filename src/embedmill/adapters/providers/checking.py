"""What every provider's answer is held to before anybody may store it. Owns the rules for count, order,
dimensions and numbers; knows no provider, and never mends a vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedmill.errors import BadResponseError
from embedmill.ports import Vectors


def order_of(indexes: Sequence[int | None]) -> list[int] | None:
    """The positions in which the items must be taken so that they stand in the order of the inputs; None
    where they already do.

    The indexes must be exactly 0 to n-1, each once. One may be absent, and is then 0: servers behind
    Protocol Buffers (Gemini) leave out a number that is zero. Raises BadResponseError for anything else,
    also where every index is absent: an order that nobody states is not an order.
    """
    count = len(indexes)
    absent = sum(index is None for index in indexes)
    if absent > 1:
        raise BadResponseError(f"{absent} of {count} vectors came without an index; their order is unknown")
    stated = [0 if index is None else index for index in indexes]
    if all(index == position for position, index in enumerate(stated)):
        return None
    if sorted(stated) != list(range(count)):
        if absent:
            raise BadResponseError(f"one of {count} vectors came without an index, and is not the first")
        raise BadResponseError(f"the indexes of the {count} vectors are not 0 to {count - 1}, each once")
    order = [0] * count
    for position, index in enumerate(stated):
        order[index] = position
    return order


def check_count(answered: int, inputs: int) -> None:
    """Raises BadResponseError unless there is one vector for each input."""
    if answered != inputs:
        raise BadResponseError(f"{inputs} inputs were sent and {answered} vectors came back")


def check_dimensions(answered: int, dimensions: int, model: str) -> None:
    """Raises BadResponseError, saying what to change, when a vector has another length than agreed."""
    if answered != dimensions:
        raise BadResponseError(
            f"{model} answered with {answered} dimensions where {dimensions} are set: change the pipeline's"
            f" dimensions to {answered} (`embedmill pipeline migrate NAME --dimensions {answered}`), or, where the"
            f' server can shorten, put "dimensions": {dimensions} into its params'
        )


def checked_vectors(vectors: NDArray[np.float32], inputs: int, dimensions: int, model: str) -> Vectors:
    """The same array, if it may be stored: shape (inputs, dimensions), float32, C-contiguous, every number
    finite, no vector all zero. Raises BadResponseError otherwise."""
    if vectors.ndim != 2:
        raise BadResponseError(f"the vectors of {model} have {vectors.ndim} axes instead of 2")
    check_count(vectors.shape[0], inputs)
    if inputs:
        check_dimensions(vectors.shape[1], dimensions, model)
    _check_numbers(vectors)
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _check_numbers(vectors: NDArray[np.float32]) -> None:
    # The squared lengths find both faults in one pass; only what looks wrong is looked at closely, for
    # squares of sound numbers can overflow or vanish too.
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squared = np.einsum("ij,ij->i", vectors, vectors)
    suspects = vectors[~(np.isfinite(squared) & (squared > 0))]
    if not len(suspects):
        return
    broken = int((~np.isfinite(suspects).all(axis=1)).sum())
    if broken:
        raise BadResponseError(f"{broken} of {len(vectors)} vectors hold a number that is not finite")
    empty = int((~suspects.any(axis=1)).sum())
    if empty:
        raise BadResponseError(f"{empty} of {len(vectors)} vectors are all zero")
