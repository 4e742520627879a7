"""Does the local engine rank as sentence-transformers does? nDCG@10 of both on a query set of our own.

    python -m benchmarks.ranking
    python -m benchmarks.ranking --write-reference FOLDER_OF_ALL_MINILM_L6_V2   (where sentence-transformers is)

data/ranking.jsonl: 59 queries over 295 short passages, written for this project. Each query has passages
that answer it (3), help (2) or touch it (1), and others that share its words and mean something else.
Ranking is exact: the dot product with every passage. data/ranking_reference.npz holds the vectors of
sentence-transformers 6.2 on PyTorch 2.13, float32: at float16 near ties change places (0.0004 of nDCG).
"""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import save_result, show_table

DATA = Path(__file__).parent / "data"
REFERENCE = DATA / "ranking_reference.npz"
MODEL = "all-MiniLM-L6-v2"
TOLERANCE = 0.01


@dataclass(frozen=True)
class RankingSet:
    """`relevance[i, j]` is the grade of passage j for query i, 0 where it is none."""

    passages: list[str]
    queries: list[str]
    relevance: NDArray[np.int64]


def load_ranking_set(path: Path = DATA / "ranking.jsonl") -> RankingSet:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    passages = [line for line in lines if line["kind"] == "passage"]
    queries = [line for line in lines if line["kind"] == "query"]
    column = {passage["id"]: number for number, passage in enumerate(passages)}
    relevance = np.zeros((len(queries), len(passages)), dtype=np.int64)
    for row, query in enumerate(queries):
        for passage_id, grade in query["relevance"].items():
            relevance[row, column[passage_id]] = grade
    return RankingSet([each["text"] for each in passages], [each["text"] for each in queries], relevance)


def mean_ndcg(
    passages: NDArray[np.floating],
    queries: NDArray[np.floating],
    relevance: NDArray[np.int64],
    depth: int = 10,
) -> float:
    """Mean over the queries of the discounted gain (2^grade - 1) of the first `depth`, over the best possible.

    Equal scores keep the order of the passages, so the result is the same each time."""
    scores = queries.astype(np.float64) @ passages.astype(np.float64).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    discount = 1 / np.log2(np.arange(2, depth + 2))
    gains = 2.0 ** np.take_along_axis(relevance, order, axis=1) - 1
    best = 2.0 ** -np.sort(-relevance, axis=1)[:, :depth] - 1
    return float(np.mean((gains * discount).sum(1) / (best * discount).sum(1)))


async def embed_ours(ranking: RankingSet) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of the passages and of the queries, by the local provider."""
    from embedmill.adapters.providers.local import LocalProvider
    from embedmill.ports import ProviderSpec, Purpose

    provider = LocalProvider(ProviderSpec("local", MODEL, 384))
    passages = await provider.embed(ranking.passages, Purpose.DOCUMENT)
    queries = await provider.embed(ranking.queries, Purpose.QUERY)
    await provider.aclose()
    return passages.vectors, queries.vectors


def compare() -> dict[str, float | int | str]:
    ranking = load_ranking_set()
    passages, queries = asyncio.run(embed_ours(ranking))
    with np.load(REFERENCE) as stored:
        theirs = stored["passages"], stored["queries"]
    ours_ndcg = mean_ndcg(passages, queries, ranking.relevance)
    their_ndcg = mean_ndcg(*theirs, ranking.relevance)
    return {
        "model": MODEL,
        "queries": len(ranking.queries),
        "passages": len(ranking.passages),
        "ours_ndcg_at_10": ours_ndcg,
        "sentence_transformers_ndcg_at_10": their_ndcg,
        "difference": ours_ndcg - their_ndcg,
    }


def write_reference(folder: str) -> None:
    from sentence_transformers import SentenceTransformer

    ranking = load_ranking_set()
    model = SentenceTransformer(folder, device="cpu")
    np.savez_compressed(
        REFERENCE,
        passages=model.encode(ranking.passages),
        queries=model.encode(ranking.queries),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="nDCG@10 of the local engine beside sentence-transformers'.")
    parser.add_argument("--write-reference", metavar="FOLDER")
    options = parser.parse_args()
    if options.write_reference:
        write_reference(options.write_reference)
        return 0
    result = compare()
    show_table(f"Ranking: nDCG@10 of {MODEL}, ours and sentence-transformers' (within {TOLERANCE})", [result])
    save_result("ranking", [result], {})
    return 0 if abs(float(result["difference"])) <= TOLERANCE else 1


if __name__ == "__main__":
    raise SystemExit(main())
