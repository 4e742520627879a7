"""A provider whose every call is measured, whoever makes it: the embedder, a query, a trial. Owns what an outcome is
called; must not change a call or its end."""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog

from embedmill.errors import (
    BadResponseError,
    InputRejectedError,
    ProviderError,
    ProviderRefusedError,
    RateLimitedError,
)
from embedmill.ports import (
    EmbeddingProvider,
    EmbeddingResponse,
    ProviderCall,
    ProviderLimits,
    ProviderSpec,
    Purpose,
    Telemetry,
)

_log = structlog.get_logger(__name__)
_OUTCOMES: tuple[tuple[type[ProviderError], str], ...] = (
    (RateLimitedError, "rate_limited"),
    (InputRejectedError, "rejected"),
    (ProviderRefusedError, "refused"),
    (BadResponseError, "bad_response"),
)


class MeasuredProvider:
    """The same provider, and `telemetry` hears of each call."""

    def __init__(self, provider: EmbeddingProvider, spec: ProviderSpec, telemetry: Telemetry) -> None:
        self._provider = provider
        self._spec = spec
        self._telemetry = telemetry

    @property
    def model(self) -> str:
        return self._provider.model

    @property
    def dimensions(self) -> int:
        return self._provider.dimensions

    @property
    def limits(self) -> ProviderLimits:
        return self._provider.limits

    async def embed(self, inputs: Sequence[str], purpose: Purpose) -> EmbeddingResponse:
        if not inputs:  # no call is made
            return await self._provider.embed(inputs, purpose)
        started = time.perf_counter()
        response: EmbeddingResponse | None = None
        outcome = "cancelled"
        try:
            response = await self._provider.embed(inputs, purpose)
            outcome = "ok"
        except ProviderError as error:
            outcome = outcome_of(error)
            raise
        finally:
            call = ProviderCall(
                spec=self._spec,
                purpose=purpose,
                inputs=len(inputs),
                tokens=None if response is None else response.tokens,
                model=None if response is None else response.model,
                seconds=time.perf_counter() - started,
                outcome=outcome,
            )
            self._telemetry.called(call)
            _log.debug(
                "provider called",
                provider=call.spec.provider,
                model=call.spec.model,
                purpose=purpose.value,
                inputs=call.inputs,
                tokens=call.tokens,
                milliseconds=round(call.seconds * 1000, 1),
                outcome=outcome,
            )
        return response

    async def aclose(self) -> None:
        await self._provider.aclose()


def outcome_of(error: ProviderError) -> str:
    """One word for an error; what is none of the others is `unavailable`."""
    return next((word for kind, word in _OUTCOMES if isinstance(error, kind)), "unavailable")
