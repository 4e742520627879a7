"""Hits by meaning and hits by words, fused by their scores."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.core.ranking import VECTOR_SHARE, fuse_scores

IDS = st.integers(1, 50)
Scored = list[tuple[int, float]]


def scored(least: float) -> st.SearchStrategy[Scored]:
    """A list as a search gives it: each id once, best first."""
    found = st.dictionaries(IDS, st.floats(least, 1), max_size=20)
    return found.map(lambda scores: sorted(scores.items(), key=lambda each: -each[1]))


CHANCE = st.none() | st.floats(-1, 1)


@given(scored(-1), scored(0), CHANCE)
def test_everything_that_was_found_comes_out_once_best_first(
    by_vector: Scored, by_text: Scored, chance: float | None
) -> None:
    fused = fuse_scores(by_vector, by_text, chance)
    assert {found for found, _ in fused} == {found for found, _ in [*by_vector, *by_text]}
    assert len({found for found, _ in fused}) == len(fused)
    assert fused == sorted(fused, key=lambda each: -each[1])
    assert all(0 <= score <= 1 + 1e-9 for _, score in fused)


@given(scored(-1), CHANCE)
def test_one_list_alone_keeps_its_order(ranking: Scored, chance: float | None) -> None:
    by_id = dict(ranking)
    for fused in (fuse_scores(ranking, [], chance), fuse_scores([], ranking, chance)):
        values = [by_id[found] for found, _ in fused]
        assert values == pytest.approx(sorted(values, reverse=True))


@given(scored(0), scored(0), st.floats(0, 0.99))
def test_a_model_that_finds_everything_alike_ranks_as_one_that_does_not(
    by_vector: Scored, by_text: Scored, chance: float
) -> None:
    """Some models give unrelated texts a similarity of 0.75: what counts is how far above that a passage is."""
    narrow = [(found, chance + (1 - chance) * similarity) for found, similarity in by_vector]
    expected = dict(fuse_scores(by_vector, by_text, 0.0))
    assert dict(fuse_scores(narrow, by_text, chance)) == {
        found: pytest.approx(score, abs=1e-9) for found, score in expected.items()
    }


@given(scored(-1).filter(bool), scored(0), st.floats(-1, 0.99), st.data())
def test_whoever_has_more_of_the_words_rises_and_nobody_else(
    by_vector: Scored, by_text: Scored, chance: float, data: st.DataObject
) -> None:
    favoured, _ = data.draw(st.sampled_from(by_vector))
    others = [(found, worth) for found, worth in by_text if found != favoured]
    before = dict(fuse_scores(by_vector, others, chance))
    after = dict(fuse_scores(by_vector, [(favoured, 1.0), *others], chance))
    assert after.pop(favoured) == pytest.approx(before.pop(favoured) + 1 - VECTOR_SHARE)
    assert after == before


def test_the_very_text_has_all_there_is() -> None:
    assert fuse_scores([(1, 1.0), (2, 0.4)], [(1, 1.0)], 0.1)[0] == (1, pytest.approx(1.0))


def test_a_code_outweighs_a_vague_likeness_and_a_common_word_does_not() -> None:
    likeness = [(1, 0.5), (2, 0.45)]
    assert fuse_scores(likeness, [(3, 0.95), (1, 0.05)], 0.1)[0][0] == 1
    assert fuse_scores([(1, 0.4), (2, 0.38)], [(3, 0.95)], 0.1)[0][0] == 3


@pytest.mark.parametrize("chance", [None, 0.0, 1.0])
def test_vectors_that_do_not_differ_leave_it_to_the_words(chance: float | None) -> None:
    same = [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert [found for found, _ in fuse_scores(same, [(3, 0.8), (2, 0.2)], chance)] == [3, 2, 1]


def test_to_be_less_like_the_query_than_chance_is_no_worse_than_not_to_be_in_the_list() -> None:
    assert fuse_scores([(1, 0.7)], [(1, 0.6), (2, 0.2)], 0.75)[0][0] == 1
    assert fuse_scores([(2, 0.2), (1, 0.1)], [], 0.3) == [(2, 0.0), (1, 0.0)]


def test_nothing_found_is_nothing() -> None:
    assert fuse_scores([], [], None) == fuse_scores([], [], 0.2) == []
