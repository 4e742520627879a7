"""Random and spoilt bytes under every name: a reason or a document, never a dead pool."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedmill.adapters.parsers import media_types as types
from embedmill.adapters.parsers.reading import Reader
from embedmill.core.documents import ParsedDocument
from embedmill.errors import DocumentError
from embedmill.ingest.parsing import ParserPool
from embedmill.ingest.parsing_protocol import MIB, ParseRequest
from tests.support import good_documents as good

REASONS = frozenset(
    (
        "encrypted",
        "corrupt",
        "empty",
        "too_large",
        "unsupported",
        "no_text",
        "timeout",
        "memory",
        "unreadable",
    )
)
ENDINGS = sorted({*types.BINARY_BY_ENDING, *types.TEXT_BY_ENDING, "txt", "xml", "svg", ""})
TEXTUAL = ("good.txt", "good.md", "good.csv", "good.tsv", "good.json", "good.jsonl", "good.py")
GOOD = {name: make() for name, make in good.GOOD.items()}


@given(
    data=st.one_of(
        st.binary(max_size=400),
        st.text(max_size=300).map(str.encode),
        st.text('{}[]",:\n\t;|#*`<>&!-\\\0 aé', max_size=300).map(str.encode),
    ),
    ending=st.sampled_from(("txt", "md", "csv", "tsv", "json", "jsonl", "")),
)
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_bytes_under_a_text_name_give_clean_text_or_a_reason(
    data: bytes, ending: str, reader: Reader, tmp_path: Path
) -> None:
    path = tmp_path / "fuzz"
    path.write_bytes(data)
    reason, document = None, None
    try:
        document = reader.read_file(str(path), f"fuzz.{ending}", None, MIB)
    except DocumentError as error:
        reason = error.reason
    if document is None:
        assert reason in REASONS
    else:
        assert_whole(document)


async def test_spoilt_files_under_every_name_never_cost_the_pool_more_than_a_child(tmp_path: Path) -> None:
    """Seeded, so that a failure comes back: bytes flipped, cut out, doubled and cut off in good files."""
    chance = random.Random(20261122)
    path = tmp_path / "spoilt"
    command = (sys.executable, "-m", "embedmill.adapters.parsers.child", "--memory-bytes", str(1024 * MIB))
    reasons, crashed = set(), []
    async with ParserPool(command, size=1, deadline_seconds=30) as pool:
        for round_number in range(600):
            name = chance.choice([name for name in GOOD if name not in TEXTUAL])
            data = spoilt(GOOD[name], chance)
            ending = name.rpartition(".")[2] if chance.random() < 0.7 else chance.choice(ENDINGS)
            path.write_bytes(data)
            try:
                reply = await pool.parse(ParseRequest(name=f"spoilt.{ending}", path=str(path)))
            except DocumentError as error:
                reasons.add(error.reason)
                if "crashed" in str(error) or "failed on" in str(error):
                    crashed.append((round_number, name, str(error)))
            else:
                assert_whole(reply.document)
    assert reasons <= REASONS
    # A crash costs a process, not the pool; but each of them is worth a look.
    assert crashed == []


def spoilt(data: bytes, chance: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(made)) if made else 0
        how = chance.randrange(5)
        if how == 0 and made:
            made[at] ^= 1 << chance.randrange(8)
        elif how == 1:
            made[at : at + chance.randint(1, 40)] = b""
        elif how == 2:
            made[at:at] = chance.randbytes(chance.randint(1, 20))
        elif how == 3:
            made[at:at] = made[at : at + chance.randint(1, 200)]
        elif chance.random() < 0.3:
            del made[at:]
    return bytes(made)


def assert_whole(document: ParsedDocument) -> None:
    assert document.text.strip()
    assert "\0" not in document.text
    document.text.encode()  # no lone surrogate
    end = 0
    for place in document.places:
        assert end <= place.start <= place.end <= len(document.text)
        end = place.end
    assert document.title is None or 0 < len(document.title) <= 300
