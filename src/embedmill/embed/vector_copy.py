"""Encodes a response's vectors as PostgreSQL binary COPY, all rows at once. Owns the byte layout only.

Layout: the COPY header, then for each row a field count and (length, bytes) for chunk_id and document_id (int8),
input_hash (bytea) and embedding (pgvector: int2 dimensions, int2 unused, then float4 or, for halfvec, float2,
big-endian), then the trailer. A structured array fills in the rows of a piece without a loop over vectors:
libraries.md measured text literals at 2-3% of this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from embedmill.core.hashing import HASH_BYTES
from embedmill.errors import BadResponseError
from embedmill.ports import Vectors

VECTOR_COLUMNS = ("chunk_id", "document_id", "input_hash", "embedding")
_HEADER = b"PGCOPY\n\xff\r\n\x00" + b"\x00" * 8
_TRAILER = b"\xff\xff"
_SCALARS = {"vector": ">f4", "halfvec": ">f2"}
_ROWS_IN_PIECE = 500
_BEYOND_HALF = 65520.0  # rounds to infinity; what lies below rounds to 65504


def check_storable(vectors: Vectors, storage: str) -> None:
    """Raise BadResponseError where a halfvec cannot hold a number: it would become infinite."""
    if storage != "halfvec" or not vectors.size:
        return
    largest = max(float(np.max(vectors)), -float(np.min(vectors)))
    if largest >= _BEYOND_HALF:
        raise BadResponseError(
            f"a number of a vector is too large for halfvec ({largest:.4g}): make a pipeline with --storage vector"
        )


def encode_vectors(
    chunk_ids: Sequence[int],
    document_ids: Sequence[int],
    input_hashes: Sequence[bytes],
    vectors: Vectors,
    rows: Sequence[int],
    storage: str,
) -> Iterator[bytes | memoryview]:
    """The pieces for COPY of VECTOR_COLUMNS: chunk_ids[i], of document_ids[i], gets vectors[rows[i]].

    `vectors` has shape (inputs, dimensions), and has passed `check_storable`. A piece is a few megabytes at most,
    though one text may stand in very many chunks.
    """
    yield _HEADER
    layout = _layout(vectors.shape[1], storage)
    for start in range(0, len(rows), _ROWS_IN_PIECE):
        some = slice(start, start + _ROWS_IN_PIECE)
        block = _fill_block(
            layout, chunk_ids[some], document_ids[some], input_hashes[some], vectors[rows[some]]
        )
        # Handed over as it stands: joining the pieces would copy megabytes.
        yield block.view(np.uint8).data
    yield _TRAILER


def _layout(dimensions: int, storage: str) -> np.dtype[np.void]:
    return np.dtype(
        [
            ("fields", ">i2"),
            ("id_length", ">i4"),
            ("id", ">i8"),
            ("document_length", ">i4"),
            ("document", ">i8"),
            ("hash_length", ">i4"),
            ("hash", f"V{HASH_BYTES}"),
            ("vector_length", ">i4"),
            ("dimensions", ">i2"),
            ("unused", ">i2"),
            ("vector", np.dtype(_SCALARS[storage]), (dimensions,)),
        ]
    )


def _fill_block(
    layout: np.dtype[np.void],
    chunk_ids: Sequence[int],
    document_ids: Sequence[int],
    input_hashes: Sequence[bytes],
    vectors: Vectors,
) -> NDArray[np.void]:
    rows, dimensions = vectors.shape
    block = np.zeros(rows, dtype=layout)
    block["fields"] = 4
    block["id_length"] = 8
    block["id"] = chunk_ids
    block["document_length"] = 8
    block["document"] = document_ids
    block["hash_length"] = HASH_BYTES
    block["hash"] = np.frombuffer(b"".join(input_hashes), dtype=f"V{HASH_BYTES}")
    block["vector_length"] = 4 + block["vector"].itemsize * dimensions
    block["dimensions"] = dimensions
    block["vector"] = vectors
    return block
