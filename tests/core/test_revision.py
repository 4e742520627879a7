"""Matching the chunks of a changed document with those that stand."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from embedmill.core.revision import Revision, revise

HASHES = st.lists(st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), max_size=40)


@given(HASHES, HASHES)
def test_every_chunk_is_kept_added_or_removed_exactly_once_and_as_many_kept_as_can_be(
    old: list[bytes], new: list[bytes]
) -> None:
    revision = revise(old, new)
    assert sorted([n for n, _ in revision.kept] + revision.added) == list(range(len(new)))
    assert sorted([o for _, o in revision.kept] + revision.removed) == list(range(len(old)))
    assert all(new[n] == old[o] for n, o in revision.kept)
    assert len(revision.kept) == (Counter(old) & Counter(new)).total()
    assert revision.added == sorted(revision.added)
    assert revision.removed == sorted(revision.removed)
    assert [n for n, _ in revision.kept] == sorted(n for n, _ in revision.kept)


@given(HASHES)
def test_what_did_not_change_is_all_kept_in_place(hashes: list[bytes]) -> None:
    assert revise(hashes, hashes) == Revision([(n, n) for n in range(len(hashes))], [], [])


@given(HASHES, HASHES)
def test_equal_texts_keep_their_order(old: list[bytes], new: list[bytes]) -> None:
    """The first of equal chunks stays the first: citations do not jump about."""
    for content_hash in set(old):
        partners = [o for n, o in revise(old, new).kept if new[n] == content_hash]
        assert partners == sorted(partners)


def test_a_paragraph_put_in_front_costs_one_chunk() -> None:
    assert revise([b"a", b"b"], [b"new", b"a", b"b"]) == Revision([(1, 0), (2, 1)], [0], [])
