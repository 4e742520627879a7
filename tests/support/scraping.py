"""/metrics as Prometheus reads it. Owns the reading; asserts only that there is something to read."""

from __future__ import annotations

import httpx2
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(client: httpx2.AsyncClient, address: str) -> Samples:
    """The page as Prometheus reads it."""
    response = await client.get(f"{address}/metrics")
    assert response.status_code == 200, response.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """One sample, or the sum of those that have these labels."""
    found = [
        number
        for (sample, its), number in samples.items()
        if sample == name and frozenset(labels.items()) <= its
    ]
    assert found, f"there is no {name} {labels}"
    return sum(found)
