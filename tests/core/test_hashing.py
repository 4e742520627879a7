"""The hash of a text: the same in Python and in the database."""

from __future__ import annotations

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedmill.core.hashing import HASH_BYTES, text_hash

# What a parsed document may hold: no NUL, no lone surrogate.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200)
IN_SQL = "SELECT substring(sha256(convert_to(%s, 'UTF8')) FROM 1 FOR 16)"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=20))
def test_postgres_computes_the_same(database: str, texts: list[str]) -> None:
    with psycopg.connect(database) as connection:
        for text in texts:
            assert connection.execute(IN_SQL, (text,)).fetchone() == (text_hash(text),)


def test_its_value_is_fixed_since_it_stands_in_tables() -> None:
    assert text_hash("").hex() == "e3b0c44298fc1c149afbf4c8996fb924"
    assert text_hash("Grüße").hex() == "f83e039796c6453a10f5519e39fd1139"
    assert len(text_hash("Grüße")) == HASH_BYTES


@given(TEXT, TEXT)
def test_texts_that_differ_in_any_way_have_different_hashes(one: str, other: str) -> None:
    """Case, spaces and Unicode forms count: vectors may differ with them."""
    assert (text_hash(one) == text_hash(other)) == (one == other)
