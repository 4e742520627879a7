"""Passages that nobody wrote, with vectors that lie as those of real sentences do, and queries for them. Owns how they
are drawn; knows no database.

A vector is that of its topic, its document and its own, added up, each drawn with a spectrum that falls as a power. The
three shares and the power are chosen so that near neighbours are as near, and the neighbourhood has as many dimensions,
as with 4,000 docstrings of Python's library embedded by all-MiniLM-L6-v2: 21.6 dimensions there and 21.9 here (by
maximum likelihood, 20 neighbours), cosine of the nearest 0.58 and 0.54, of the tenth 0.44 and 0.42, of the nearest
hundredth of all pairs 0.39 and 0.33. Vectors drawn evenly would have no neighbours worth finding.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 384
CHUNKS_PER_DOCUMENT = 4
CHUNKS_PER_TOPIC = 500
WORDS_PER_CHUNK = 40
SHELVES = 100
SLAB = 50_000
_TOPIC, _DOCUMENT, _CHUNK = 0.35, 0.30, 0.35
_POWER = 0.8
_WORDS = 50_000
# Words of questions: neither the commonest, which a language's list of stop words takes away, nor those hardly used.
_QUERY_WORDS = (100, 10_000)

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Passages:
    """`count` chunks; chunk i is the (i % 4)th of document i // 4. All follows from the count and the seed."""

    count: int
    seed: int = 1

    @property
    def documents(self) -> int:
        return -(-self.count // CHUNKS_PER_DOCUMENT)

    @property
    def topics(self) -> int:
        return max(self.count // CHUNKS_PER_TOPIC, SHELVES)

    def topic_of(self, document: Integers) -> Integers:
        return _mixed(document, self.seed) % self.topics

    def metadata_of(self, document: Integers) -> dict[str, Integers]:
        """Fields by which filters choose. All but the last know nothing of the vectors; a shelf holds whole topics."""
        drawn = _mixed(document, self.seed + 1)
        return {
            "tenth": drawn % 10,
            "twentieth": drawn % 20,
            "fiftieth": drawn % 50,
            "hundredth": drawn % 100,
            "thousandth": drawn % 1000,
            "shelf": self.topic_of(document) % SHELVES,
        }

    def vectors(self, first: int, last: int) -> Floats:
        """Of chunks `first` to `last`, one slab at most; of length one."""
        chunks = np.arange(first, last)
        documents = chunks // CHUNKS_PER_DOCUMENT
        own = documents[0], documents[-1] + 1
        of_documents = self._draw("documents", *own)[documents - own[0]]
        of_topics = self._topic_vectors()[self.topic_of(documents)]
        of_chunks = self._draw("chunks", first, last)
        return _unit(
            np.sqrt(_TOPIC) * of_topics + np.sqrt(_DOCUMENT) * of_documents + np.sqrt(_CHUNK) * of_chunks
        )

    def texts(self, first: int, last: int) -> list[str]:
        """Words as often as words are: the nth commonest 1/n as often as the commonest."""
        chance = self._chance("texts", first)
        words = np.array([f"w{n:x}" for n in range(_WORDS)], dtype=object)
        drawn = np.exp(chance.random((last - first, WORDS_PER_CHUNK)) * np.log(_WORDS)).astype(np.int64)
        return [" ".join(line) for line in words[drawn]]

    def queries(self, count: int, seed: int = 0) -> tuple[Floats, list[str], Integers]:
        """(vectors, words, topics) of questions: half of them about a document, half about no more than a topic."""
        chance = self._chance("queries", seed)
        documents = chance.integers(0, min(self.documents, SLAB), count)
        topics = self.topic_of(documents)
        about = self._draw("documents", 0, SLAB)[documents]
        about[::2] = _drawn(chance, len(about[::2]))
        vectors = _unit(
            np.sqrt(_TOPIC) * self._topic_vectors()[topics]
            + np.sqrt(_DOCUMENT) * about
            + np.sqrt(_CHUNK) * _drawn(chance, count)
        )
        low, high = np.log(_QUERY_WORDS)
        words = np.exp(low + chance.random((count, 3)) * (high - low)).astype(np.int64)
        # With a number that no passage holds: no two queries are the same, so that each has its own vector.
        texts = [" ".join(f"w{n:x}" for n in line) + f" q{seed}x{i}" for i, line in enumerate(words)]
        return vectors, texts, topics

    def _topic_vectors(self) -> Floats:
        return _drawn(self._chance("topics", 0), self.topics)

    def _draw(self, what: str, first: int, last: int) -> Floats:
        """Rows `first` to `last` of an endless table: drawn by whole slabs, so that each row is what it is."""
        slabs = [
            _slab(self._chance(what, number))[max(first - number * SLAB, 0) : min(last - number * SLAB, SLAB)]
            for number in range(first // SLAB, (last - 1) // SLAB + 1)
        ]
        return slabs[0] if len(slabs) == 1 else np.concatenate(slabs)

    def _chance(self, what: str, number: int) -> np.random.Generator:
        key = hashlib.sha256(f"{self.seed}/{what}/{number}".encode()).digest()
        return np.random.default_rng(np.frombuffer(key, np.uint32))


def _slab(chance: np.random.Generator) -> Floats:
    return _drawn(chance, SLAB)


def _drawn(chance: np.random.Generator, rows: int) -> Floats:
    spectrum = np.arange(1, DIMENSIONS + 1) ** (-_POWER / 2)
    scale = (spectrum / np.sqrt((spectrum**2).sum())).astype(np.float32)
    return chance.standard_normal((rows, DIMENSIONS), dtype=np.float32) * scale


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _mixed(numbers: Integers, seed: int) -> Integers:
    """Numbers that look drawn, the same ones for the same seed (splitmix64)."""
    mixed = np.asarray(numbers, np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)
