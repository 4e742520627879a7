"""Reciprocal rank fusion."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.core.ranking import fuse_rankings

RANKINGS = st.lists(st.lists(st.integers(1, 50), unique=True, max_size=20), max_size=4)


@given(RANKINGS)
def test_everything_that_was_found_comes_out_once_best_first(rankings: list[list[int]]) -> None:
    fused = fuse_rankings(rankings)
    assert {identifier for identifier, _ in fused} == {found for ranking in rankings for found in ranking}
    assert len({identifier for identifier, _ in fused}) == len(fused)
    assert fused == sorted(fused, key=lambda scored: (-scored[1], scored[0]))


@given(st.lists(st.integers(), unique=True, max_size=30))
def test_one_ranking_keeps_its_order(ranking: list[int]) -> None:
    assert [identifier for identifier, _ in fuse_rankings([ranking])] == ranking
    assert [identifier for identifier, _ in fuse_rankings([ranking, ranking])] == ranking


def test_two_lists_that_agree_outweigh_one_that_is_sure() -> None:
    fused = dict(fuse_rankings([[1, 2, 3], [4, 2, 5]]))
    assert fused[2] == pytest.approx(2 / 62)
    assert fused[2] > fused[1] == fused[4] == pytest.approx(1 / 61)


@given(RANKINGS)
def test_the_order_of_the_lists_does_not_matter(rankings: list[list[int]]) -> None:
    forwards, backwards = fuse_rankings(rankings), fuse_rankings(rankings[::-1])
    assert {i: pytest.approx(score) for i, score in forwards} == dict(backwards)


def test_nothing_found_is_nothing() -> None:
    assert fuse_rankings([]) == fuse_rankings([[], []]) == []
