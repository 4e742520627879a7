"""The stand-in's vectors and token counts: deterministic, public, and cheap enough not to hide what a
benchmark measures. Must not depend on the server: a test recomputes from here what was served.

A vector is a row of blocks drawn from a bank of random blocks; the hash of the text picks them. The bank
is kept in base64 too, so that an answer is put together from ready pieces: no arithmetic for each vector.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

BLOCKS_IN_BANK = 256  # one byte of a hash picks one
MIN_BLOCKS = 16  # 128 bits: different texts never meet
SMALLEST_BANKED_DIMENSIONS = 3 * MIN_BLOCKS


def digest_of(text: str) -> bytes:
    """The key of a text: in the counts of what was paid, and of its vector."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def tokens_for(text: str) -> int:
    """The stand-in's token count: one, and one more for each space and each line break."""
    return 1 + text.count(" ") + text.count("\n")


class Bank:
    """Ready blocks for one number of dimensions."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        # Three floats are 12 bytes are 16 base64 letters: only such blocks can be joined as text.
        self.block_floats = (dimensions // MIN_BLOCKS) // 3 * 3
        self.blocks = dimensions // self.block_floats
        rest_floats = dimensions - self.blocks * self.block_floats
        self._block = _unit_blocks(self.block_floats, dimensions, seed=1)
        self._rest = _unit_blocks(rest_floats, dimensions, seed=2)
        self._block_base64 = [base64_floats(row) for row in self._block]
        self._rest_base64 = [base64_floats(row) for row in self._rest]
        self._block_json: dict[int, bytes] = {}
        self._rest_json: dict[int, bytes] = {}

    def vector(self, digest: bytes, salt: str) -> NDArray[np.float32]:
        *blocks, rest = _entropy(digest, salt, self.blocks + 1)
        return np.concatenate([*(self._block[number] for number in blocks), self._rest[rest]])

    def base64(self, digest: bytes, salt: str) -> bytes:
        ready = self._block_base64
        *blocks, rest = _entropy(digest, salt, self.blocks + 1)
        pieces = [ready[number] for number in blocks]
        pieces.append(self._rest_base64[rest])
        return b"".join(pieces)

    def json(self, digest: bytes, salt: str) -> bytes:
        """The numbers as JSON, without the brackets; a block is printed once and remembered."""
        *blocks, rest = _entropy(digest, salt, self.blocks + 1)
        pieces = [_printed(self._block, self._block_json, number) for number in blocks]
        if self._rest.shape[1]:
            pieces.append(_printed(self._rest, self._rest_json, rest))
        return b",".join(pieces)


@cache
def bank_for(dimensions: int) -> Bank:
    return Bank(dimensions)


def vector_for(text: str, dimensions: int, salt: str = "") -> NDArray[np.float32]:
    """The unit vector, shape (dimensions,), that the stand-in serves for this text; bit for bit."""
    return vector_of(digest_of(text), dimensions, salt)


def vectors_for(texts: Sequence[str], dimensions: int, salt: str = "") -> NDArray[np.float32]:
    """`vector_for` of each text: shape (len(texts), dimensions)."""
    if not texts:
        return np.empty((0, dimensions), np.float32)
    return np.stack([vector_for(text, dimensions, salt) for text in texts])


def vector_of(digest: bytes, dimensions: int, salt: str) -> NDArray[np.float32]:
    """`vector_for` the text of this digest."""
    if dimensions < SMALLEST_BANKED_DIMENSIONS:
        return _small_vector(digest, dimensions, salt)
    return bank_for(dimensions).vector(digest, salt)


def base64_of(digest: bytes, dimensions: int, salt: str) -> bytes:
    """`vector_of`, as little-endian float32 in base64."""
    if dimensions < SMALLEST_BANKED_DIMENSIONS:
        return base64_floats(_small_vector(digest, dimensions, salt))
    return bank_for(dimensions).base64(digest, salt)


def json_of(digest: bytes, dimensions: int, salt: str) -> bytes:
    """`vector_of`, as JSON numbers joined by commas."""
    if dimensions < SMALLEST_BANKED_DIMENSIONS:
        return json_floats(_small_vector(digest, dimensions, salt))
    return bank_for(dimensions).json(digest, salt)


def base64_floats(row: NDArray[np.float32]) -> bytes:
    return b2a_base64(row.astype("<f4").tobytes(), newline=False)


def json_floats(row: NDArray[np.float32]) -> bytes:
    # The shortest decimal of a float32 comes back as the same float32, read as double or not.
    return ",".join(str(number) for number in row).encode()


def _small_vector(digest: bytes, dimensions: int, salt: str) -> NDArray[np.float32]:
    seed = int.from_bytes(_entropy(digest, salt, 32), "little")
    row = np.random.default_rng(seed).standard_normal(dimensions)
    return (row / np.linalg.norm(row)).astype(np.float32)


def _entropy(digest: bytes, salt: str, size: int) -> bytes:
    return blake2b(digest + salt.encode(), digest_size=size).digest()


def _unit_blocks(floats: int, dimensions: int, seed: int) -> NDArray[np.float32]:
    """Rows whose squared length is their share of one, so that any choice of them has length one."""
    rows = np.random.default_rng([seed, dimensions]).standard_normal((BLOCKS_IN_BANK, floats))
    if floats:
        rows *= np.sqrt(floats / dimensions) / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype("<f4")


def _printed(rows: NDArray[np.float32], seen: dict[int, bytes], number: int) -> bytes:
    printed = seen.get(number)
    if printed is None:
        printed = seen[number] = json_floats(rows[number])
    return printed
