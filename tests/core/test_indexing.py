"""When a generation's index is built and dropped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from embedmill.core.indexing import BULK_WAITING, SMALLEST_INDEXED, IndexStep, next_index_step

MANY = st.integers(0, 10_000_000)


@given(MANY, MANY)
def test_the_rule_never_drops_what_it_would_build_at_once(embedded: int, waiting: int) -> None:
    if next_index_step(embedded=embedded, waiting=waiting, has_index=False) is IndexStep.BUILD:
        assert next_index_step(embedded=embedded, waiting=waiting, has_index=True) is IndexStep.KEEP
    if next_index_step(embedded=embedded, waiting=waiting, has_index=True) is IndexStep.DROP:
        assert next_index_step(embedded=embedded, waiting=waiting, has_index=False) is IndexStep.KEEP


@given(MANY, MANY)
def test_nothing_is_built_that_stands_and_nothing_dropped_that_does_not(embedded: int, waiting: int) -> None:
    assert next_index_step(embedded=embedded, waiting=waiting, has_index=True) is not IndexStep.BUILD
    assert next_index_step(embedded=embedded, waiting=waiting, has_index=False) is not IndexStep.DROP


@given(st.integers(SMALLEST_INDEXED, 10_000_000))
def test_a_finished_load_gets_its_index(embedded: int) -> None:
    assert next_index_step(embedded=embedded, waiting=0, has_index=False) is IndexStep.BUILD


@given(MANY, MANY)
def test_nothing_is_built_while_nobody_knows_how_much_still_comes(embedded: int, waiting: int) -> None:
    step = next_index_step(embedded=embedded, waiting=waiting, has_index=False, is_loading=True)
    assert step is IndexStep.KEEP


@given(st.integers(0, SMALLEST_INDEXED - 1), MANY)
def test_few_vectors_are_searched_exactly(embedded: int, waiting: int) -> None:
    assert next_index_step(embedded=embedded, waiting=waiting, has_index=False) is IndexStep.KEEP


def test_a_bulk_load_drops_the_index_and_a_trickle_keeps_it() -> None:
    assert next_index_step(embedded=10_000, waiting=20_000, has_index=True) is IndexStep.DROP
    assert next_index_step(embedded=10_000, waiting=19_999, has_index=True) is IndexStep.KEEP
    assert next_index_step(embedded=1_000_000, waiting=BULK_WAITING, has_index=True) is IndexStep.KEEP
