"""A provider to test against: an OpenAI-compatible embeddings server in a process of its own, with limits,
faults, and counts of what was paid for each input. For tests and benchmarks; ships with neither.

    with start_provider(dimensions=384, calls_per_minute=600) as provider:
        ... base_url=provider.base_url ...
        assert provider.stats()["most_paid_for_one_input"] == 1

`options.Options` is the list of what it can do.
"""

from tests.support.provider.handle import RunningProvider, start_provider
from tests.support.provider.options import Options
from tests.support.provider.vectors import digest_of, tokens_for, vector_for, vectors_for

__all__ = [
    "Options",
    "RunningProvider",
    "digest_of",
    "start_provider",
    "tokens_for",
    "vector_for",
    "vectors_for",
]
