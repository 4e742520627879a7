"""What everybody embeds: files of real sentences in an order of their own, and the texts that embedmill cuts them into.
Peers get these texts ready, and need not read, parse or cut anything."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers.drivers.embedmill import PLAN
from benchmarks.peers.protocol import MODEL
from embedmill.app import open_parsers
from embedmill.ingest.parsing_protocol import ParseRequest, TokenizerSpec
from embedmill.settings import Settings

_PASSAGES = Path(__file__).parents[1] / "data" / "ranking.jsonl"
_TEXTS_OF_A_FILE = 500
_SENTENCES_OF_A_PARAGRAPH = 7


def write_files(folder: Path, texts: int, seed: int) -> None:
    """Files of about 500 texts each, so many that there are about as many texts as asked for."""
    paragraphs = _paragraphs(random.Random(seed))
    for number in range(max(1, round(texts / _TEXTS_OF_A_FILE))):
        count = min(texts, _TEXTS_OF_A_FILE)
        text = "\n\n".join(next(paragraphs) for _ in range(count))
        (folder / f"{number:04}.txt").write_text(text, "utf-8")


async def texts_of(folder: Path) -> list[str]:
    """What embedmill cuts the files into, in order; all different."""
    settings = Settings()
    texts: list[str] = []
    async with open_parsers(settings) as parsers:
        for path in sorted(folder.iterdir()):  # noqa: ASYNC240 - nothing else runs yet
            reply = await parsers.parse(
                ParseRequest(
                    name=path.name,
                    path=str(path),
                    plan=PLAN,
                    tokenizer=TokenizerSpec(None, MODEL, "openai", models_dir=str(settings.models_dir)),
                )
            )
            texts += [chunk.text for chunk in reply.chunks]
    assert len(set(texts)) == len(texts), "an equal text is embedded once by us, and twice by others"
    return texts


def _paragraphs(chance: random.Random) -> Iterator[str]:
    """Paragraphs of a text's length, each with a number that makes it the only one of its kind."""
    lines = [json.loads(line) for line in _PASSAGES.read_text("utf-8").splitlines()]
    passages = " ".join(line["text"] for line in lines if line["kind"] == "passage")
    sentences = re.split(r"(?<=[.!?]) +", passages)
    number = 0
    while True:
        number += 1
        yield f"Note {number}. " + " ".join(chance.choices(sentences, k=_SENTENCES_OF_A_PARAGRAPH))
