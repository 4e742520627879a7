"""How well search finds what answers: nDCG@10 of each mode over the queries of `ranking`, through the whole product
(local model, full text with the language named and without).

    python -m benchmarks.words

The passages are stored in an order of chance: those of equal rank come in the order of their numbers.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
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
from embedmill.search.searcher import Mode

CONFIGS = ("english", "simple")
DEPTH = 10
SEED = 11


async def measure() -> list[dict[str, Any]]:
    ranking = load_ranking_set()
    rows = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, benchmark_database() as url:
        async with app_on(url, Path(folder)) as app:
            for config in CONFIGS:
                rows += await measure_config(app, config, ranking)
    return rows


async def measure_config(app: App, config: str, ranking: RankingSet) -> list[dict[str, Any]]:
    new = NewPipeline(config, ProviderSpec("local", MODEL, 384), "vector", ChunkPlan(256, 0), config)
    pipeline = await create_pipeline(app.database, await tenant_id(app.database, "default"), new)
    batch = uuid4()
    order = random.Random(SEED).sample(range(len(ranking.passages)), len(ranking.passages))
    await add_document(app, pipeline, config, [ranking.passages[number] for number in order], batch)
    await run_worker_until_settled(app, batch, seconds=600)
    searcher = app.searcher(pipeline, app.provider(pipeline.generation.spec))
    rows = []
    for mode in Mode:
        gained = []
        for query, relevance in zip(ranking.queries, ranking.relevance, strict=True):
            hits = await searcher.search(query, mode=mode, limit=DEPTH)
            gained.append(ndcg(relevance[[order[hit.ordinal] for hit in hits]], relevance))
        rows.append(
            {"text_search_config": config, "mode": mode.value, "ndcg_at_10": round(float(np.mean(gained)), 4)}
        )
    return rows


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
