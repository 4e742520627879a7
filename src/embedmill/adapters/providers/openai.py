"""Vectors from any server that speaks OpenAI's embeddings API. Owns one call: the request, the connection,
the deadline, what is learnt about the server; retries, batching and limits in time belong to the callers.

Sent: `model`, `input`, `encoding_format: base64` while the server takes it, the dimensions where the
catalog's rule says so (catalog.dimensions_parameter_for), then the spec's `params` and the purpose's own
on top; a value of None takes a key out. Nothing else is added.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import httpcore2
import httpx2
import msgspec
import numpy as np
from msgspec.structs import replace

from embedmill.adapters.providers.addresses import address_for, headers_for
from embedmill.adapters.providers.answers import decoded
from embedmill.adapters.providers.catalog import dimensions_parameter_for, limits_for
from embedmill.adapters.providers.refusals import CallContext, Refusal, error_for, read_refusal
from embedmill.adapters.providers.retry_after import exhausted_seconds
from embedmill.errors import (
    BadResponseError,
    ConfigurationError,
    InputRejectedError,
    ProviderError,
    ProviderRefusedError,
    ProviderUnavailableError,
)
from embedmill.ports import EmbeddingResponse, ProviderLimits, ProviderSpec, Purpose

CONNECT_TIMEOUT_SECONDS = 10.0
KEEPALIVE_SECONDS = 30.0
MAX_ERROR_BYTES = 64 * 1024
# Asked of a connection at a time: what asyncio takes from a socket. At httpcore's quarter of it each piece was cut in
# four, and an answer is megabytes. A client has no setting for it, so that it holds for the whole process.
READ_BYTES = 256 * 1024
httpcore2.AsyncHTTP11Connection.READ_NUM_BYTES = READ_BYTES

FLOAT_TYPES = (None, "float", "float32")


class OpenAIProvider:
    """See ports.EmbeddingProvider. One instance for each pipeline and event loop; calls may run side by
    side, each on a connection of its own, kept for the next."""

    def __init__(self, spec: ProviderSpec, *, api_key: str | None) -> None:
        """Raises ConfigurationError for a spec that can never work; makes no call."""
        self._spec = spec
        self._limits = limits_for(spec)
        self._address = address_for(spec.base_url, spec.model)
        self._headers = headers_for(self._address, api_key)
        self._api_key = (api_key or "").strip() or None
        self._parameters = {purpose: _parameters(spec, purpose) for purpose in Purpose}
        self._prefixes = {Purpose.DOCUMENT: spec.document_prefix, Purpose.QUERY: spec.query_prefix}
        self._asks_base64 = all("encoding_format" not in _given(spec, purpose) for purpose in Purpose)
        self._base64_is_taken = False
        self._client: httpx2.AsyncClient | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"OpenAIProvider(model={self.model!r}, host={self._address.host!r})"

    @property
    def model(self) -> str:
        return self._spec.model

    @property
    def dimensions(self) -> int:
        return self._spec.dimensions

    @property
    def limits(self) -> ProviderLimits:
        return self._limits

    async def embed(self, inputs: Sequence[str], purpose: Purpose) -> EmbeddingResponse:
        """See ports.EmbeddingProvider.embed."""
        if not inputs:
            return EmbeddingResponse(np.empty((0, self.dimensions), np.float32), 0, self.model)
        try:
            async with asyncio.timeout(self._spec.timeout_seconds) as deadline:
                progress = _Progress()
                answer = await self._answered(inputs, purpose, progress)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise ProviderUnavailableError(
                f"{self._address.host} did not answer within {self._spec.timeout_seconds:g} s",
                charged=progress.sent,
            ) from error
        response = decoded(answer.body, len(inputs), self.dimensions, self.model)
        exhausted = exhausted_seconds(answer.headers, datetime.now(UTC))
        return response if exhausted is None else replace(response, exhausted_seconds=exhausted)

    async def aclose(self) -> None:
        """Closes the kept connections; may be called more than once."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _answered(self, inputs: Sequence[str], purpose: Purpose, progress: _Progress) -> _Answer:
        """A good answer; asks once more, without base64, where that may be what was refused."""
        with_base64 = self._asks_base64
        answer = await self._exchange(inputs, purpose, with_base64, progress)
        refusal = answer.refusal
        if with_base64 and refusal is not None and self._base64_may_be_refused(answer.status, refusal):
            with_base64 = False
            answer = await self._exchange(inputs, purpose, with_base64, progress)
            if answer.refusal is None:
                self._asks_base64 = False
        if answer.refusal is not None:
            raise self._error(answer, answer.refusal, inputs, purpose)
        self._base64_is_taken = self._base64_is_taken or with_base64
        return answer

    def _base64_may_be_refused(self, status: int, refusal: Refusal) -> bool:
        """Some servers name the parameter, some (Gemini) only say "invalid argument". The second asking
        costs nothing, for a refused call is not paid, and ends with the first good answer."""
        if status not in (400, 422):
            return False
        if refusal.complains_of(["encoding_format"]):
            return True
        return not self._base64_is_taken and "input" not in refusal.fields

    async def _exchange(
        self, inputs: Sequence[str], purpose: Purpose, with_base64: bool, progress: _Progress
    ) -> _Answer:
        body = self._encoded(inputs, purpose, with_base64)
        progress.sent = False
        host = self._address.host
        try:
            client = self._connected()
            async with client.stream(
                "POST", self._address.url, content=body, headers=self._headers, extensions={"trace": progress}
            ) as response:
                return await self._read(response, len(inputs))
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError) as error:
            reason = f": {error}" if str(error) else ""
            raise ProviderUnavailableError(f"{host} cannot be reached{reason}") from error
        except (
            httpx2.InvalidURL,
            httpx2.UnsupportedProtocol,
            httpx2.LocalProtocolError,
            UnicodeError,
        ) as error:
            raise ProviderRefusedError(f"no call can be made to {host}; check base_url") from error
        except httpx2.DecodingError:
            raise BadResponseError(f"the answer of {host} is packed in a way that cannot be undone") from None
        except httpx2.RequestError as error:
            # The words of a protocol error can repeat what was received: they stay out of every log.
            kind = type(error).__name__
            raise ProviderUnavailableError(
                f"the connection to {host} broke ({kind})", charged=progress.sent
            ) from None

    def _encoded(self, inputs: Sequence[str], purpose: Purpose, with_base64: bool) -> bytes:
        prefix = self._prefixes[purpose]
        request: dict[str, object] = {"model": self.model}
        request["input"] = [prefix + text for text in inputs] if prefix else list(inputs)
        if with_base64:
            request["encoding_format"] = "base64"
        request.update(self._parameters[purpose])
        try:
            return msgspec.json.encode(request)
        except UnicodeEncodeError:
            raise InputRejectedError("an input holds half of a surrogate pair, which is not text") from None

    def _connected(self) -> httpx2.AsyncClient:
        if self._closed:
            raise ProviderUnavailableError("this provider was closed")
        if self._client is None:
            timeout = self._spec.timeout_seconds
            try:
                self._client = httpx2.AsyncClient(
                    verify=_certificates(),
                    timeout=httpx2.Timeout(timeout, connect=min(CONNECT_TIMEOUT_SECONDS, timeout)),
                    # The worker decides how many calls are in flight; a second limit here would only hide it.
                    limits=httpx2.Limits(
                        max_connections=None,
                        max_keepalive_connections=None,
                        keepalive_expiry=KEEPALIVE_SECONDS,
                    ),
                    follow_redirects=False,
                )
            except (ValueError, ImportError, httpx2.InvalidURL, OSError):
                raise ProviderRefusedError(
                    "the proxy or the certificates that the environment names (HTTPS_PROXY, ALL_PROXY,"
                    " SSL_CERT_FILE) cannot be used"
                ) from None
        return self._client

    async def _read(self, response: httpx2.Response, inputs: int) -> _Answer:
        """The whole answer, up to a size that no right one has."""
        is_good = 200 <= response.status_code < 300
        most = self._most_bytes(inputs) if is_good else MAX_ERROR_BYTES
        pieces: list[bytes] = []
        size = 0
        async for piece in response.aiter_bytes():
            pieces.append(piece)
            size += len(piece)
            if size > most:
                break
        body = b"".join(pieces)
        headers = {name.lower(): value for name, value in response.headers.items()}
        if not is_good:
            return _Answer(response.status_code, body, headers, read_refusal(body))
        if size > most:
            raise BadResponseError(
                f"the answer of {self._address.host} is longer than {inputs} vectors can be"
            )
        return _Answer(response.status_code, body, headers)

    def _most_bytes(self, inputs: int) -> int:
        # 24 letters a number, as many numbers as the largest models have, so that a model with other
        # dimensions than agreed is still told by name.
        return 2**20 + inputs * max(self.dimensions, 4096) * 24

    def _error(
        self, answer: _Answer, refusal: Refusal, inputs: Sequence[str], purpose: Purpose
    ) -> ProviderError:
        context = CallContext(
            model=self.model,
            host=self._address.host,
            key_hint=self._key_hint(),
            api_key=self._api_key,
            inputs=inputs,
            parameters=[*self._parameters[purpose], "encoding_format"],
        )
        return error_for(answer.status, answer.headers, refusal, context, datetime.now(UTC))

    def _key_hint(self) -> str:
        variable = self._spec.api_key_env or "EMBEDMILL_OPENAI_API_KEY (or OPENAI_API_KEY, for OpenAI itself)"
        if self._api_key is None:
            return f"no key was sent; put it into the environment variable {variable}"
        return f"check the key in the environment variable {variable}"


class _Answer(msgspec.Struct, frozen=True):
    """`refusal` is set exactly when the status is no 2xx."""

    status: int
    body: bytes
    headers: dict[str, str]
    refusal: Refusal | None = None


class _Progress:
    """Told by the transport how far a request is: once the body is out, it may have been paid for."""

    def __init__(self) -> None:
        self.sent = False
        self._is_ours = False

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        # Through a proxy there is a CONNECT first, which is told with the same words.
        if event.endswith("send_request_headers.started"):
            self._is_ours = info["request"].method == b"POST"
        elif event.endswith("send_request_body.complete") and self._is_ours:
            self.sent = True


@cache
def _certificates() -> ssl.SSLContext:
    """One for the process: reading the certificates of the machine takes longer than a call."""
    return httpx2.create_ssl_context()


def _given(spec: ProviderSpec, purpose: Purpose) -> dict[str, object]:
    own = spec.query_params if purpose is Purpose.QUERY else spec.document_params
    return {**spec.params, **own}


def _parameters(spec: ProviderSpec, purpose: Purpose) -> dict[str, object]:
    """What goes beside model and input; raises ConfigurationError for what cannot."""
    given = _given(spec, purpose)
    for name in ("input", "model"):
        if name in given:
            raise ConfigurationError(f'params cannot hold "{name}": embedmill sets it')
    for name in ("dimensions", "output_dimension"):
        if given.get(name) not in (None, spec.dimensions):
            raise ConfigurationError(f'params hold "{name}": {given[name]}, the pipeline {spec.dimensions}')
    for name in ("output_dtype", "embedding_type"):
        if given.get(name) not in FLOAT_TYPES:
            raise ConfigurationError(
                f'params ask for "{name}": "{given[name]}"; only float vectors are stored'
            )
    parameter = dimensions_parameter_for(spec)
    parameters: dict[str, object] = {parameter: spec.dimensions} if parameter else {}
    parameters.update({name: value for name, value in given.items() if value is not None})
    try:
        msgspec.json.encode(parameters)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError("params hold a value that JSON cannot") from error
    return parameters
