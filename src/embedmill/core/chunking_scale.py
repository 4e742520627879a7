"""The weight of text in tokens: an estimate to plan with, and the model's own count to decide with.

Owns the calls of the counter: few, each with many texts. Keeps nothing beyond one document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

CHARACTERS_PER_TOKEN = 32
"""A chunk holds at most this many characters for each token of its budget: some tokenizers take a
megabyte without spaces for one unknown word, and such a chunk would be of no use to anybody."""

_LONGEST_COUNTED = 1000
_SAMPLE = 256
_MOST_REMEMBERED = 100_000
_LONGEST_REMEMBERED = 32
_BLOCK_CHARACTERS = 1 << 20


class Scale:
    """Weighs text by the sum of its words' tokens, counting each word once: ten times faster than counting
    the text, near enough to plan with, and never the last word: `count` is."""

    def __init__(self, count_tokens: Callable[[Sequence[str]], list[int]]) -> None:
        self._count_tokens = count_tokens
        empty, together, lines = count_tokens(["", "a b", "a\nb"])
        self.special_tokens = empty
        self.line_tokens = max(0, lines - together)
        self._words: dict[str, int] = {}

    def count(self, texts: Iterable[str]) -> list[int]:
        """The model's own counts, special tokens included; in calls of about a megabyte."""
        counts: list[int] = []
        for block in _blocks(texts):
            counts += self._count_tokens(block)
        return counts

    def weigh(self, texts: Iterable[str]) -> list[int]:
        """Estimated tokens of each text, at least 1, special tokens left out."""
        weights: list[int] = []
        for block in _blocks(texts):
            split = [text.split() for text in block]
            self._learn({word for words in split for word in words})
            tokens = self._words.__getitem__
            for text, words in zip(block, split, strict=True):
                weight = sum(map(tokens, words))
                if self.line_tokens:
                    weight += self.line_tokens * text.count("\n")
                weights.append(max(weight, 1, -(-len(text) // CHARACTERS_PER_TOKEN)))
        return weights

    def _learn(self, words: set[str]) -> None:
        # Sorted, so that a counter sees the same calls in every process; a space before, since byte-pair
        # tokenizers know most words with the space that stands before them in a text.
        unknown = sorted(words.difference(self._words))
        counts = self.count(
            " " + (word if len(word) <= _LONGEST_COUNTED else word[:_SAMPLE]) for word in unknown
        )
        for word, tokens in zip(unknown, counts, strict=True):
            # A very long "word" is judged by its beginning: tokenizers may take quadratic time for it.
            longer = 1 if len(word) <= _LONGEST_COUNTED else -(-len(word) // _SAMPLE)
            self._words[word] = max(0, tokens - self.special_tokens) * longer


def remembering_words(
    count_tokens: Callable[[Sequence[str]], list[int]],
) -> Callable[[Sequence[str]], list[int]]:
    """A counter that counts each word once for as long as it lives: saves a third of the counting where many
    small documents are chunked with it. Remembers at most `_MOST_REMEMBERED` short texts."""
    known: dict[str, int] = {}

    def count(texts: Sequence[str]) -> list[int]:
        fresh = [text for text in texts if text not in known]
        counts = dict(zip(fresh, count_tokens(fresh), strict=True)) if fresh else {}
        answer = [known[text] if text in known else counts[text] for text in texts]
        if len(known) < _MOST_REMEMBERED:
            known.update(
                (text, tokens) for text, tokens in counts.items() if len(text) <= _LONGEST_REMEMBERED
            )
        return answer

    return count


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    block: list[str] = []
    size = 0
    for text in texts:
        block.append(text)
        size += len(text) + 16
        if size > _BLOCK_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block
