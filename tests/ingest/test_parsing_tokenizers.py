"""The limited process counts with any tokenizer that is on this machine: a folder's, a file's, the hub cache's."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from embedmill.core.documents import ChunkPlan
from embedmill.ingest.parsing import ParserPool
from embedmill.ingest.parsing_protocol import MIB, ParseRequest, TokenizerSpec

CHILD = (sys.executable, "-m", "embedmill.adapters.parsers.child", "--memory-bytes", str(256 * MIB))
FOLDER = Path(__file__).parents[1] / "adapters" / "data" / "tiny-bert"
TEXT = "The mill grinds wheat, and the river turns the wheel. " * 40


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    """A hub cache that holds one model, as a download would have left it."""
    model = tmp_path / "models" / "hub" / "models--mill--tiny"
    revision = "0" * 40
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(revision)
    shutil.copytree(FOLDER, model / "snapshots" / revision)
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("tokenizer", "model", "provider"),
    [
        (str(FOLDER), "any", "openai"),
        (str(FOLDER / "tokenizer.json"), "any", "openai"),
        ("mill/tiny", "any", "openai"),
        (None, str(FOLDER), "local"),
        (None, "mill/tiny", "local"),
    ],
)
async def test_a_document_is_cut_by_a_tokenizer_of_this_machine(
    tokenizer: str | None, model: str, provider: str, models_dir: Path
) -> None:
    request = ParseRequest(
        name="row",
        text=TEXT,
        plan=ChunkPlan(max_tokens=40, overlap_tokens=0),
        tokenizer=TokenizerSpec(tokenizer, model, provider, models_dir=str(models_dir)),
    )
    async with ParserPool(CHILD, size=1) as pool:
        reply = await pool.parse(request)
    assert len(reply.chunks) > 3
    assert all(0 < chunk.tokens <= 40 for chunk in reply.chunks)
