"""The local engine ranks as sentence-transformers does, on the query set in benchmarks/data."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.ranking import REFERENCE, TOLERANCE, compare, load_ranking_set, mean_ndcg


def test_dense_ranking_is_that_of_sentence_transformers() -> None:
    result = compare()
    assert abs(float(result["difference"])) <= TOLERANCE
    assert 0.75 < float(result["ours_ndcg_at_10"]) < 0.95, "too easy or too hard to show a difference"


def test_the_query_set_is_whole() -> None:
    ranking = load_ranking_set()
    assert len(set(ranking.passages)) == len(ranking.passages)
    assert (ranking.relevance.max(axis=1) == 3).all(), "every query has an answer"


def test_a_perfect_order_scores_one_and_a_reversed_one_what_was_worked_out_by_hand() -> None:
    relevance = np.array([[3, 1, 0]])
    perfect, reverse = np.array([[3.0], [2.0], [1.0]]), np.array([[1.0], [2.0], [3.0]])
    query = np.array([[1.0]])
    assert mean_ndcg(perfect, query, relevance, depth=3) == pytest.approx(1)
    ideal = 7 + 1 / np.log2(3)
    assert mean_ndcg(reverse, query, relevance, depth=3) == pytest.approx((1 / np.log2(3) + 7 / 2) / ideal)


def test_noise_in_the_vectors_lowers_the_score() -> None:
    """The measure must be able to fail: vectors half drowned in noise rank worse by more than is allowed."""
    with np.load(REFERENCE) as stored:
        passages, queries = stored["passages"].astype(np.float64), stored["queries"].astype(np.float64)
    noise = np.random.default_rng(0).normal(scale=0.05, size=passages.shape)
    relevance = load_ranking_set().relevance
    assert (
        mean_ndcg(passages + noise, queries, relevance) < mean_ndcg(passages, queries, relevance) - TOLERANCE
    )
