"""What the stand-in counts. Owns the numbers that tests assert on ("paid once") and the sliding windows
of its rate limits; takes the time as an argument and decides nothing else."""

from __future__ import annotations

from collections import deque

import msgspec


class SeenRequest(msgspec.Struct):
    """One call as it came in, without its texts; header names in lower case."""

    target: str
    headers: dict[str, str]
    parameters: dict[str, object]
    inputs: int


class Ledger:
    """Paid means: it was, or would have been, answered with 200; also if the client had gone by then."""

    def __init__(self) -> None:
        self.calls = 0
        self.calls_by_status: dict[str, int] = {}
        self.calls_paid = 0
        self.inputs_paid = 0
        self.tokens_paid = 0
        self.paid: dict[bytes, int] = {}
        self.in_flight = 0
        self.max_in_flight = 0
        self.connections = 0
        self.max_connections = 0
        self.max_inputs_in_a_call = 0
        self.calls_by_second: dict[int, int] = {}
        self.recent: deque[SeenRequest] = deque(maxlen=64)
        self._calls_window: deque[float] = deque()
        self._tokens_window: deque[tuple[float, int]] = deque()
        self._tokens_in_window = 0

    def reset(self) -> None:
        """Forget the past; calls that are under way and open connections go on being counted."""
        in_flight, connections = self.in_flight, self.connections
        self.__init__()  # type: ignore[misc]  # a fresh start is what is meant
        self.in_flight = self.max_in_flight = in_flight
        self.connections = self.max_connections = connections

    def call_begins(self, now: float) -> None:
        self.calls += 1
        second = int(now)
        self.calls_by_second[second] = self.calls_by_second.get(second, 0) + 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def call_ends(self) -> None:
        self.in_flight -= 1

    def outcome(self, word: str) -> None:
        """The status answered, or the word of the fault that left no status ("hang", "drop")."""
        self.calls_by_status[word] = self.calls_by_status.get(word, 0) + 1

    def pay(self, digests: list[bytes], tokens: int) -> None:
        self.calls_paid += 1
        self.inputs_paid += len(digests)
        self.tokens_paid += tokens
        self.max_inputs_in_a_call = max(self.max_inputs_in_a_call, len(digests))
        paid = self.paid
        for digest in digests:
            paid[digest] = paid.get(digest, 0) + 1

    def admit(
        self,
        now: float,
        tokens: int,
        calls_limit: int | None,
        tokens_limit: int | None,
        window_seconds: float,
    ) -> float:
        """Take a call into the sliding windows. Returns 0, or the seconds until it would fit."""
        calls, spent = self._calls_window, self._tokens_window
        while calls and calls[0] <= now - window_seconds:
            calls.popleft()
        while spent and spent[0][0] <= now - window_seconds:
            self._tokens_in_window -= spent.popleft()[1]
        wait = 0.0
        if calls_limit is not None and len(calls) >= calls_limit:
            wait = calls[len(calls) - calls_limit] + window_seconds - now if calls_limit else window_seconds
        if tokens_limit is not None and self._tokens_in_window + tokens > tokens_limit:
            over = self._tokens_in_window + tokens - tokens_limit
            for when, count in spent:
                over -= count
                wait = max(wait, when + window_seconds - now)
                if over <= 0:
                    break
            wait = wait or window_seconds
        if not wait:
            calls.append(now)
            spent.append((now, tokens))
            self._tokens_in_window += tokens
        return wait

    def remaining(self, calls_limit: int | None, tokens_limit: int | None) -> tuple[int, int]:
        """Calls and tokens that the window still has room for."""
        return (
            max(0, (calls_limit or 0) - len(self._calls_window)),
            max(0, (tokens_limit or 0) - self._tokens_in_window),
        )

    def stats(self) -> dict[str, object]:
        return {
            "calls": self.calls,
            "calls_by_status": self.calls_by_status,
            "calls_paid": self.calls_paid,
            "inputs_paid": self.inputs_paid,
            "distinct_inputs_paid": len(self.paid),
            "most_paid_for_one_input": max(self.paid.values(), default=0),
            "tokens_paid": self.tokens_paid,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "connections": self.connections,
            "max_connections": self.max_connections,
            "max_inputs_in_a_call": self.max_inputs_in_a_call,
            "calls_by_second": {str(second): count for second, count in self.calls_by_second.items()},
        }
