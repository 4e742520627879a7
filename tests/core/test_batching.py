"""Packing: calls within their limits, nothing lost, nothing doubled, counts that stay right."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from embedmill.core.batching import CallLimits, Packer, Target, Unit
from embedmill.core.hashing import text_hash


def unit(text: str, *targets: tuple[int, int], tokens: int = 1, group: str = "usage") -> Unit:
    return Unit(text_hash(text), text, tokens, group, [Target(*target) for target in targets])


def drain(packer: Packer) -> list[list[Unit]]:
    calls = []
    while call := packer.take():
        calls.append(call)
    return calls


TEXTS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12), st.sampled_from(["a", "b"])), max_size=80)


@given(TEXTS, st.integers(1, 9), st.integers(1, 40))
def test_calls_keep_their_limits_and_every_target_travels_once(
    texts: list[tuple[int, int, str]], max_inputs: int, max_tokens: int
) -> None:
    packer = Packer(CallLimits(max_inputs, max_tokens))
    sent: Counter[tuple[str, Target]] = Counter()
    for number, (text, tokens, group) in enumerate(texts):
        packer.add(unit(f"text {text}", (number // 7, number), tokens=tokens, group=group))
        sent[group, Target(number // 7, number)] += 1
    calls = drain(packer)
    for call in calls:
        assert len(call) <= max_inputs
        assert len(call) == 1 or sum(one.tokens for one in call) <= max_tokens
        assert len({one.group for one in call}) == 1
        assert len({one.content_hash for one in call}) == len(call)
    arrived = Counter((one.group, target) for call in calls for one in call for target in one.targets)
    assert arrived == sent
    assert (len(packer), packer.inputs, packer.tokens) == (0, 0, 0)


def test_units_leave_in_the_order_they_came_and_groups_in_turn() -> None:
    packer = Packer(CallLimits(2, 100))
    for number, group in enumerate("abaab"):
        packer.add(unit(f"{number}", (1, number), group=group))
    assert [[one.text for one in call] for call in drain(packer)] == [["0", "2"], ["3"], ["1", "4"]]


def test_a_unit_larger_than_a_call_travels_alone() -> None:
    packer = Packer(CallLimits(10, 100))
    for number, tokens in enumerate((5, 500, 5)):
        packer.add(unit(f"{number}", (1, number), tokens=tokens))
    assert [[one.tokens for one in call] for call in drain(packer)] == [[5], [500], [5]]


def test_the_same_text_is_sent_once_for_all_who_want_it_but_not_across_groups() -> None:
    packer = Packer(CallLimits(10, 100))
    for number, group in enumerate("aab"):
        packer.add(unit("same", (number, number), group=group))
    first, second = drain(packer)
    assert [one.targets for one in first] == [[Target(0, 0), Target(1, 1)]]
    assert [one.targets for one in second] == [[Target(2, 2)]]


def test_a_text_that_left_may_wait_again() -> None:
    packer = Packer(CallLimits(10, 100))
    packer.add(unit("same", (1, 1)))
    packer.take()
    packer.add(unit("same", (2, 2)))
    assert [one.targets for one in packer.take()] == [[Target(2, 2)]]


def test_room_is_what_is_missing_to_a_full_call() -> None:
    packer = Packer(CallLimits(3, 10))
    packer.add(unit("1", (1, 1), tokens=4))
    assert (packer.room, packer.is_full) == ((2, 6), False)
    packer.add(unit("2", (1, 2), tokens=6))
    assert packer.is_full
    packer.take()
    assert (packer.room, packer.is_full) == ((3, 10), False)


class Packing(RuleBasedStateMachine):
    """Adds, takes and drops in any order, beside a plain count of the targets that wait."""

    @initialize(inputs=st.integers(1, 5), tokens=st.integers(1, 20))
    def begin(self, inputs: int, tokens: int) -> None:
        self.packer = Packer(CallLimits(inputs, tokens))
        self.waiting: dict[tuple[str, str], tuple[int, list[Target]]] = {}
        self.chunks = 0

    @rule(text=st.sampled_from("pqrstu"), item=st.integers(0, 4), group=st.sampled_from("ab"))
    def add(self, text: str, item: int, group: str) -> None:
        self.chunks += 1
        tokens = ord(text) % 7 + 1
        self.packer.add(unit(text, (item, self.chunks), tokens=tokens, group=group))
        _, targets = self.waiting.setdefault((group, text), (tokens, []))
        targets.append(Target(item, self.chunks))

    @rule()
    def take(self) -> None:
        call = self.packer.take()
        assert bool(call) == bool(self.waiting)
        for one in call:
            assert self.waiting.pop((one.group, one.text))[1] == one.targets

    @rule(items=st.sets(st.integers(0, 4)))
    def drop_items(self, items: set[int]) -> None:
        self.packer.drop_items(items)
        for key, (tokens, targets) in list(self.waiting.items()):
            kept = [target for target in targets if target.item_id not in items]
            self.waiting[key] = (tokens, kept)
            if not kept:
                del self.waiting[key]

    @invariant()
    def the_counts_are_those_of_what_waits(self) -> None:
        if hasattr(self, "packer"):
            assert len(self.packer) == len(self.waiting)
            assert self.packer.tokens == sum(tokens for tokens, _ in self.waiting.values())

    def teardown(self) -> None:
        if hasattr(self, "packer"):
            arrived = {(one.group, one.text): one.targets for call in drain(self.packer) for one in call}
            assert arrived == {key: targets for key, (_, targets) in self.waiting.items()}


TestPacking = Packing.TestCase
