"""Cuts texts in the limited parsing process, for whoever has text and no file. Owns the way from the port to the
pool; must not know whose texts they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from embedmill.core.documents import ChunkPlan, ParsedDocument
from embedmill.errors import DocumentError
from embedmill.ingest.parsing import ParserPool
from embedmill.ingest.parsing_protocol import CutRequest, ParseFailure, TokenizerSpec
from embedmill.ports import CutDocument, ProviderSpec


class PoolCutter:
    """The port `Cutter` on a pool of parsing processes."""

    def __init__(
        self,
        pool: ParserPool,
        tokenizer: Callable[[ProviderSpec], TokenizerSpec],
        longest_input: Callable[[ProviderSpec], Awaitable[int]],
    ) -> None:
        """`longest_input`: how many tokens a model reads of one input."""
        self._pool = pool
        self._tokenizer = tokenizer
        self._longest_input = longest_input
        self._whole_plans: dict[bytes, ChunkPlan] = {}

    async def cut(
        self, documents: Sequence[ParsedDocument], plan: ChunkPlan, spec: ProviderSpec
    ) -> list[CutDocument | DocumentError]:
        replies = await self._pool.cut(CutRequest(tuple(documents), plan, self._tokenizer(spec)))
        return [
            DocumentError(reply.reason, reply.message)
            if isinstance(reply, ParseFailure)
            else CutDocument(reply.document, reply.chunks)
            for reply in replies
        ]

    async def whole_plan(self, spec: ProviderSpec) -> ChunkPlan:
        key = msgspec.json.encode(spec)
        if key not in self._whole_plans:
            # A prefix has no more tokens than bytes.
            longest = await self._longest_input(spec) - len(spec.document_prefix.encode())
            self._whole_plans[key] = ChunkPlan(max(1, longest), 0, is_whole=True)
        return self._whole_plans[key]

    async def aclose(self) -> None:
        """End the parsing processes; the pool is this cutter's own."""
        await self._pool.aclose()
