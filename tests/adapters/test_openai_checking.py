"""The checks that every provider's vectors pass before they may be stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.adapters.providers.checking import checked_vectors, order_of
from embedmill.errors import BadResponseError


@given(st.permutations(range(6)), st.booleans())
def test_any_order_is_put_right_when_it_is_stated_whole(indexes: list[int], zero_is_left_out: bool) -> None:
    stated = [None if zero_is_left_out and index == 0 else index for index in indexes]
    order = order_of(stated) or list(range(6))
    assert [indexes[position] for position in order] == list(range(6))


@given(st.lists(st.none() | st.integers(-2, 5), max_size=5))
def test_an_order_that_is_not_stated_whole_is_refused(stated: list[int | None]) -> None:
    whole = sorted(0 if index is None else index for index in stated) == list(range(len(stated)))
    if whole and stated.count(None) <= 1:
        order_of(stated)
    else:
        with pytest.raises(BadResponseError):
            order_of(stated)


def test_sound_vectors_come_back_contiguous_and_unchanged() -> None:
    columns = np.asfortranarray(np.arange(1, 7, dtype=np.float32).reshape(2, 3))
    checked = checked_vectors(columns, 2, 3, "m")
    assert checked.flags["C_CONTIGUOUS"]
    assert np.array_equal(checked, columns)
    assert checked_vectors(np.empty((0, 0), np.float32), 0, 3, "m").shape[0] == 0


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 1])
def test_a_number_that_is_not_finite_is_refused(number: float, row: int) -> None:
    vectors = np.ones((2, 3), np.float32)
    vectors[row, 1] = number
    with pytest.raises(BadResponseError, match="1 of 2 vectors hold a number that is not finite"):
        checked_vectors(vectors, 2, 3, "m")


def test_a_vector_of_zeros_is_refused_but_not_one_of_tiny_or_huge_numbers() -> None:
    vectors = np.array([[1e-44, 0, 0], [3e38, 3e38, -3e38]], np.float32)
    assert checked_vectors(vectors, 2, 3, "m") is vectors
    with pytest.raises(BadResponseError, match="1 of 2 vectors are all zero"):
        checked_vectors(np.array([[1, 2, 3], [0, -0.0, 0]], np.float32), 2, 3, "m")


@pytest.mark.parametrize("shape", [(3, 3), (1, 3), (2, 4), (2, 2), (6,)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadResponseError):
        checked_vectors(np.ones(shape, np.float32), 2, 3, "m")
