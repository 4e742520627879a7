"""The local provider: a sentence-transformers model on this machine's CPUs, without PyTorch. Owns how a
call is spread over the cores and what it answers; the mathematics is onnx_graph.py's, the running
onnx_engine.py's.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from embedmill.adapters.providers.models import FoundModel, find_model, verify_weights
from embedmill.adapters.providers.onnx_engine import OnnxEngine
from embedmill.adapters.providers.sentence_model import SentenceModel, read_sentence_model
from embedmill.errors import ConfigurationError, ProviderRefusedError, ProviderUnavailableError
from embedmill.ports import EmbeddingResponse, ProviderLimits, ProviderSpec, Purpose, Vectors

MAX_INPUTS_PER_CALL = 64
"""A call is what is committed together and lost together: 64 chunks are one to three seconds of work."""

TOKENS_PER_RUN = 512
SMALLEST_RUN = 64
"""Measured: a run of 60 tokens costs a sixth more for each token than one of 250; from there it is level.
More than 512 at once leaves the other cores idle at the end of a call and answers a cancellation late."""

T = TypeVar("T")

_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


class LocalProvider:
    """Embeds on this machine. Nothing is loaded, not even looked for, before it is needed.

    `threads` is how many batches run at once; by default as many as this process may use CPUs. `models_dir`
    holds models fetched from the hub and the note that the bundled one was checked.
    """

    def __init__(
        self, spec: ProviderSpec, *, threads: int | None = None, models_dir: Path | None = None
    ) -> None:
        if threads is not None and threads < 1:
            raise ConfigurationError(f"The local engine was given {threads} threads; it needs 1 or more.")
        self._spec = spec
        self._threads = threads or available_cpus()
        self._models_dir = models_dir
        # A pool of its own for queries: behind a bulk load's queue a search would wait for seconds.
        self._pools = {
            purpose: ThreadPoolExecutor(self._threads, thread_name_prefix=f"embed-{purpose}")
            for purpose in Purpose
        }
        self._lock = threading.Lock()
        self._engine: OnnxEngine | None = None
        self._closed = False

    @property
    def model(self) -> str:
        return self._spec.model

    @property
    def dimensions(self) -> int:
        return self._spec.dimensions

    @property
    def limits(self) -> ProviderLimits:
        """Reads the model's folder at first use, so it can raise ConfigurationError."""
        own, spec = self._described[1].max_tokens, self._spec
        per_input = min(own, spec.max_tokens_per_input or own)
        max_inputs = spec.max_inputs_per_call or MAX_INPUTS_PER_CALL
        return ProviderLimits(
            max_inputs_per_call=max_inputs,
            max_tokens_per_call=spec.max_tokens_per_call or max_inputs * per_input,
            max_tokens_per_input=per_input,
        )

    async def load(self, purpose: Purpose = Purpose.DOCUMENT) -> None:
        """Make ready for a first call of this purpose. Raises ConfigurationError, which says what to mend:
        for `doctor`, for making a pipeline, and for loading while something else is waited for."""
        await self._in_pool(purpose, partial(self._loaded, purpose))

    async def embed(self, inputs: Sequence[str], purpose: Purpose) -> EmbeddingResponse:
        """See ports.EmbeddingProvider. An input beyond the model's limit is embedded by its beginning;
        `tokens` counts what was embedded. Cancelling ends the call once the batches in hand are done."""
        if not inputs:
            return EmbeddingResponse(np.empty((0, self.dimensions), np.float32), 0, self.model)
        try:
            engine = await self._in_pool(purpose, partial(self._loaded, purpose))
            prefix = self._prefix(engine.model, purpose)
            texts = [prefix + text for text in inputs] if prefix else list(inputs)
            ids = await self._in_pool(purpose, partial(engine.encode, texts))
            vectors = await self._run(engine, ids, purpose)
        except ConfigurationError as error:
            raise ProviderRefusedError(str(error)) from error
        return EmbeddingResponse(vectors, sum(map(len, ids)), self.model)

    async def aclose(self) -> None:
        """Ends when the batches in hand are done; calls still waiting are cancelled."""
        self._closed = True
        for pool in self._pools.values():
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)
        self._engine = None

    async def _run(self, engine: OnnxEngine, ids: list[list[int]], purpose: Purpose) -> Vectors:
        vectors = np.empty((len(ids), engine.model.dimensions), dtype=np.float32)

        def run(rows: list[int]) -> None:
            batch = np.array([ids[row] for row in rows], dtype=np.int64)
            vectors[rows] = engine.run(batch, quick=purpose is Purpose.QUERY)

        batches = plan_batches([len(each) for each in ids], self._threads)
        runs = [self._submit(purpose, partial(run, rows)) for rows in batches]
        try:
            await asyncio.gather(*map(asyncio.wrap_future, runs))
        finally:
            # After a failure or a cancellation, those that wait; when all is done, nothing.
            for each in runs:
                each.cancel()
        return vectors

    def _loaded(self, purpose: Purpose) -> OnnxEngine:
        if self._engine is not None:
            return self._engine
        with self._lock:
            if self._engine is None:
                found, model = self._described
                # Hashing leaves the GIL and takes as long as loading: the one hides behind the other.
                with ThreadPoolExecutor(1) as beside:
                    verified = beside.submit(verify_weights, found, self._models_dir)
                    engine = OnnxEngine.load(model)
                    engine.prepare(quick=purpose is Purpose.QUERY)
                    verified.result()
                self._engine = engine
            return self._engine

    @cached_property
    def _described(self) -> tuple[FoundModel, SentenceModel]:
        spec = self._spec
        found = find_model(spec.model, self._models_dir)
        model = read_sentence_model(found.folder)
        if spec.dimensions != model.dimensions:
            raise ConfigurationError(
                f"{spec.model} gives {model.dimensions} dimensions and cannot be shortened: set dimensions to"
                f" {model.dimensions}, not {spec.dimensions}."
            )
        if spec.params or spec.query_params or spec.document_params:
            raise ConfigurationError("The local provider takes no params; remove them from the pipeline.")
        return found, model

    def _prefix(self, model: SentenceModel, purpose: Purpose) -> str:
        """The spec's own, else what the model's folder says that it was trained with."""
        if purpose is Purpose.QUERY:
            return self._spec.query_prefix or model.prompts.get("query", "")
        trained = (model.prompts[name] for name in _DOCUMENT_PROMPTS if name in model.prompts)
        return self._spec.document_prefix or next(trained, "")

    async def _in_pool(self, purpose: Purpose, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._submit(purpose, work))

    def _submit(self, purpose: Purpose, work: Callable[[], T]) -> Future[T]:
        if self._closed:
            raise ProviderUnavailableError("The local provider was closed.")
        return self._pools[purpose].submit(work)


def plan_batches(lengths: Sequence[int], threads: int) -> list[list[int]]:
    """Group the positions of inputs into runs of equal length, the longest first.

    Equal lengths need no padding and no mask. A run holds at most TOKENS_PER_RUN tokens, and less where
    that keeps every thread at work; longest first, so that the threads end together.
    """
    share = math.ceil(sum(lengths) / threads)
    tokens_per_run = min(TOKENS_PER_RUN, max(SMALLEST_RUN, share))
    by_length: dict[int, list[int]] = defaultdict(list)
    for position, length in enumerate(lengths):
        by_length[length].append(position)
    batches = []
    for length in sorted(by_length, reverse=True):
        positions = by_length[length]
        rows = max(1, tokens_per_run // max(1, length))
        batches += [positions[start : start + rows] for start in range(0, len(positions), rows)]
    return batches


def available_cpus() -> int:
    """CPUs this process may use: its affinity or the quota of its container (cgroup v2), the lesser."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        allowed = math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return affinity  # no such file, or "max": no quota
    return max(1, min(affinity, allowed))
