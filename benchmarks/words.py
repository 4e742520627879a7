"""How well search finds what answers: nDCG@10 of each mode, and of both lists fused by their ranks alone, through the
whole product (local model, full text with the language named and without). `questions` are those of `ranking`, among
passages that share their words and mean something else; `codes` ask for a machine's fault by its code, of which a
model knows nothing; `docstrings` are numpy's, where the first line asks for the rest (nothing was tuned by them).

    python -m benchmarks.words

The passages are stored in an order of chance: those of equal rank come in the order of their numbers.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from tests.support.work import add_document, app_on, run_worker_until_settled

from benchmarks.ranking import MODEL, RankingSet, load_ranking_set
from benchmarks.results import save_result, show_table
from benchmarks.servers import benchmark_database
from embedmill.app import App
from embedmill.core.chunking import ChunkPlan
from embedmill.database.pipelines import NewPipeline, create_pipeline, tenant_id
from embedmill.ports import ProviderSpec
from embedmill.search.searcher import Hit, Mode, Searcher

CONFIGS = ("english", "simple")
DEPTH = 10
CANDIDATES = 50
SEED = 11
FAULTS = 150
FAULTS_ASKED = 60
_CODES = ("E-%04d", "ERR%d", "A%dB", "%d-KX")
_PARTS = (
    "inverter", "feed pump", "door sensor", "labelling head", "conveyor belt", "print server", "gearbox", "cooling fan",
    "scanner", "touch panel",
)  # fmt: skip
_FAULTS = (
    "did not answer within two seconds", "reports a temperature above its limit", "lost its calibration",
    "draws more current than allowed", "was stopped by the light barrier", "has an old firmware",
    "failed its self test", "reports a worn bearing",
)  # fmt: skip
_REMEDIES = (
    "Switch it off and on again", "Call the service", "Check the cable and its plug", "Clean it and reset the counter",
    "Replace the fuse F3", "Load the parameters anew",
)  # fmt: skip
_ASKED = ("%s", "what does %s mean", "fault %s on the line, what now?", "%s error", "how to fix %s")


def codes() -> RankingSet:
    """Faults that differ in little but their code."""
    chance = random.Random(SEED)
    others = load_ranking_set().passages
    names = [chance.choice(_CODES) % number for number in chance.sample(range(1000, 10000), FAULTS)]
    faults = [
        f"{name}: the {chance.choice(_PARTS)} {chance.choice(_FAULTS)}. {chance.choice(_REMEDIES)}; "
        f"see sheet {chance.randint(100, 999)}."
        for name in names
    ]
    asked = chance.sample(range(FAULTS), FAULTS_ASKED)
    relevance = np.zeros((FAULTS_ASKED, len(others) + FAULTS), dtype=np.int64)
    for row, number in enumerate(asked):
        relevance[row, len(others) + number] = 1
    return RankingSet(
        [*others, *faults], [chance.choice(_ASKED) % names[number] for number in asked], relevance
    )


def docstrings() -> RankingSet:
    """Each of numpy's documented functions and classes by what its first line says."""
    told = dict(_told_apart())
    return RankingSet(list(told.values()), list(told), np.eye(len(told), dtype=np.int64))


def _told_apart() -> Iterator[tuple[str, str]]:
    """(first line, the rest) of those that have both."""
    for module in (np, np.linalg, np.fft, np.random, np.polynomial, np.ma, np.char):
        for name in sorted(vars(module)):
            text = inspect.getdoc(getattr(module, name)) if not name.startswith("_") else None
            for paragraph, rest in [_first_and_rest(text)] if text else []:
                if 4 <= len(paragraph.split()) <= 25 and "(" not in paragraph and len(rest.split()) >= 25:
                    yield paragraph, " ".join(rest.split()[:180])


def _first_and_rest(text: str) -> tuple[str, str]:
    """Numpy's functions written in C begin with their signature."""
    paragraphs = text.split("\n\n")
    start = 1 if "(" in paragraphs[0] and len(paragraphs) > 1 else 0
    return " ".join(paragraphs[start].split()), "\n\n".join(paragraphs[start + 1 :])


SETS: dict[str, Callable[[], RankingSet]] = {
    "questions": load_ranking_set,
    "codes": codes,
    "docstrings": docstrings,
}


async def measure() -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, benchmark_database() as url:
        async with app_on(url, Path(folder)) as app:
            for name, load in SETS.items():
                for config in CONFIGS:
                    rows += await measure_set(app, name, config, load())
    return rows


async def measure_set(app: App, name: str, config: str, asked: RankingSet) -> list[dict[str, Any]]:
    new = NewPipeline(
        f"{name}-{config}", ProviderSpec("local", MODEL, 384), "vector", ChunkPlan(256, 0), config
    )
    pipeline = await create_pipeline(app.database, await tenant_id(app.database, "default"), new)
    batch = uuid4()
    order = random.Random(SEED).sample(range(len(asked.passages)), len(asked.passages))
    await add_document(app, pipeline, new.name, [asked.passages[number] for number in order], batch)
    await run_worker_until_settled(app, batch, seconds=600)
    searcher = app.searcher(pipeline, app.provider(pipeline.generation.spec))
    gained: dict[str, list[float]] = defaultdict(list)
    for query, relevance in zip(asked.queries, asked.relevance, strict=True):
        for way, hits in (await ways(searcher, query)).items():
            gained[way].append(ndcg(relevance[[order[hit.ordinal] for hit in hits]], relevance))
    return [
        {
            "set": name,
            "text_search_config": config,
            "mode": way,
            "queries": len(asked.queries),
            "ndcg_at_10": round(float(np.mean(values)), 4),
        }
        for way, values in gained.items()
    ]


async def ways(searcher: Searcher, query: str) -> dict[str, list[Hit]]:
    """What each mode finds, and what the ranks of both lists would."""
    found = {mode.value: await searcher.search(query, mode=mode, limit=DEPTH) for mode in Mode}
    lists = [await searcher.search(query, mode=mode, limit=CANDIDATES) for mode in (Mode.VECTOR, Mode.TEXT)]
    return {**found, "by rank": by_rank(lists)[:DEPTH]}


def by_rank(lists: Sequence[Sequence[Hit]]) -> list[Hit]:
    """Reciprocal rank fusion (Cormack, Clarke and Buettcher, 2009), with which this product began."""
    scores: dict[int, float] = defaultdict(float)
    for hits in lists:
        for rank, hit in enumerate(hits, start=1):
            scores[hit.ordinal] += 1 / (60 + rank)
    hit_of = {hit.ordinal: hit for hits in lists for hit in hits}
    return sorted(hit_of.values(), key=lambda hit: (-scores[hit.ordinal], hit.ordinal))


def ndcg(found: np.ndarray[Any, Any], all_grades: np.ndarray[Any, Any]) -> float:
    """The discounted gain (2^grade - 1) of what was found, over the best possible."""
    discount = 1 / np.log2(np.arange(2, DEPTH + 2))
    best = np.sort(all_grades)[::-1][:DEPTH]
    return float(((2.0**found - 1) * discount[: len(found)]).sum() / ((2.0**best - 1) * discount).sum())


def main() -> None:
    rows = asyncio.run(measure())
    show_table("Search: nDCG@10 by mode", rows)
    save_result("words", rows, {"seed": SEED})


if __name__ == "__main__":
    main()
