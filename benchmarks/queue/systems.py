"""What the comparison asks of every queue, and where each is found. Must not import a queue before it is asked for:
the peers live in another environment than embedmill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast

# Name, module and class; the first is ours, the last runs in our environment too.
PLACES = {
    "embedmill": "benchmarks.queue.embedmill_items:EmbedmillItems",
    "procrastinate": "benchmarks.queue.procrastinate_jobs:ProcrastinateJobs",
    "pgqueuer": "benchmarks.queue.pgqueuer_jobs:PgQueuerJobs",
    "pgmq_style": "benchmarks.queue.pgmq_messages:PgmqMessages",
    "pgmq_functions": "benchmarks.queue.pgmq_messages:PgmqFunctions",
}
PEER_ENVIRONMENT = frozenset({"procrastinate", "pgqueuer"})
# What embedmill has in columns of an item, as filled in by the server; `payload` is the same for one job.
PAYLOAD_SQL = (
    "jsonb_build_object('tenant_id', 1, 'generation_id', 1, 'source_type', 'bench', 'source_id', 'fill/' || n, "
    "'priority', 'medium', 'operation', 'INSERT', 'estimated_tokens', 10, 'metadata', '{}'::jsonb)"
)


def payload(source_id: str) -> dict[str, Any]:
    """What a job says, for queues that keep it in one value: the same as a row of ours."""
    return {
        "tenant_id": 1,
        "generation_id": 1,
        "source_type": "bench",
        "source_id": source_id,
        "priority": "medium",
        "operation": "INSERT",
        "estimated_tokens": 10,
        "metadata": {},
    }


@dataclass(frozen=True)
class Statements:
    """The statements of one job, as a client would prepare them: what the server costs without Python.

    `enqueue_values(n)` are the values of the n-th job; `complete_values(row)` those for a claimed row (text).
    """

    enqueue: str
    enqueue_values: Callable[[int], list[bytes]]
    claim: str
    claim_values: list[bytes]
    complete: str
    complete_values: Callable[[list[bytes]], list[bytes]]
    claimed_columns: int = 1


class System(Protocol):
    """One queue with `clients` connections open. What `claim` returns goes to `complete` as it is."""

    version: str
    driver: str
    # Tables of waiting and running jobs, and of ended ones; emptied together.
    tables: Sequence[str]
    # Fill in %(count)s waiting jobs, or ended ones, as the system itself would have left them.
    fill: Sequence[str]
    fill_history: Sequence[str]

    async def open(self, url: str, clients: int) -> None: ...

    async def close(self) -> None: ...

    async def enqueue(self, client: int, count: int) -> None: ...

    async def claim(self, client: int, count: int) -> Sequence[Any]: ...

    async def complete(self, client: int, claimed: Sequence[Any]) -> None: ...

    async def hand_over(self, client: int, claimed: Sequence[Any], count: int) -> Sequence[Any]:
        """Complete and claim the next, in one call where the queue has one."""
        ...

    def statements(self) -> Statements: ...


def find_system(name: str) -> System:
    """A system by its name; ImportError where it is not installed."""
    module, _, kind = PLACES[name].partition(":")
    return cast("System", getattr(import_module(module), kind)())
