"""The embedder against a real provider process and a real database."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from embedmill.ingest.progress import batch_progress, coverage
from tests.support.provider import start_provider, vector_for
from tests.support.work import (
    add_document,
    app_on,
    missing_chunks,
    run_worker_until_settled,
    stand_in_pipeline,
    stored_vectors,
)


@pytest.mark.parametrize("storage", ["vector", "halfvec"])
async def test_every_vector_is_the_provider_s_vector_of_exactly_that_text(
    database: str, tmp_path: Path, storage: str
) -> None:
    batch = uuid4()
    with start_provider(dimensions=64) as provider:
        async with app_on(database, tmp_path) as app:
            pipeline = await stand_in_pipeline(app, provider.base_url, storage=storage)
            for number in range(30):
                texts = [f"document {number} passage {i}" for i in range(number * 7 % 60 + 1)]
                await add_document(app, pipeline, f"doc-{number}", texts, batch)
            await run_worker_until_settled(app, batch)
            stored = await stored_vectors(app, pipeline)
            assert await missing_chunks(app, pipeline) == 0
            tolerance = 1e-6 if storage == "vector" else 1e-3
            for _, text, vector in stored:
                assert np.abs(vector - vector_for(text, 64)).max() < tolerance
            progress = await batch_progress(app.database, batch)
            covered = await coverage(app.database, pipeline.generation.id)
        assert provider.stats()["most_paid_for_one_input"] == 1
    assert progress.live_jobs == 0
    assert progress.embedded_chunks == progress.total_chunks == len(stored) == covered.embedded
    assert covered.percent == 100.0


async def test_a_text_that_stands_in_many_documents_is_paid_for_once(database: str, tmp_path: Path) -> None:
    batch = uuid4()
    with start_provider(dimensions=64, latency_ms=30) as provider:
        async with app_on(database, tmp_path) as app:
            pipeline = await stand_in_pipeline(app, provider.base_url, max_inputs_per_call=7)
            for number in range(40):
                await add_document(
                    app, pipeline, f"doc-{number}", ["the same", f"own {number}", "the same"], batch
                )
            await run_worker_until_settled(app, batch)
            assert len(await stored_vectors(app, pipeline)) == 120
            later = uuid4()
            await add_document(app, pipeline, "late", ["own 7", "the same"], later)
            progress = await batch_progress(app.database, later)
            await run_worker_until_settled(app, later)
            progress = await batch_progress(app.database, later)
        stats = provider.stats()
    assert stats["most_paid_for_one_input"] == 1
    assert (progress.embedded_chunks, progress.reused_chunks) == (2, 2)
