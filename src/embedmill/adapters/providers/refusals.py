"""From an answer that is no 2xx to the error our callers branch on. Owns the mapping of statuses and codes,
and what of the server's words may be repeated: never a key, never a piece of the content."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import msgspec

from embedmill.adapters.providers.retry_after import retry_after_seconds
from embedmill.errors import (
    InputRejectedError,
    ProviderError,
    ProviderRefusedError,
    ProviderUnavailableError,
    RateLimitedError,
)

LONGEST_MESSAGE = 300
NO_CREDIT = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "quota_exceeded"}
)
CALLER_REFUSED = NO_CREDIT | {
    "invalid_api_key", "api_key_invalid", "account_deactivated", "model_not_found", "deploymentnotfound",
    "permission_denied", "unauthenticated", "failed_precondition",
}  # fmt: skip
_UNWANTED = re.compile(
    r"unrecogni[sz]ed|unknown|unexpected|unsupported|not support|not permitted|not allowed|not accept|extra ",
    re.IGNORECASE,
)
# A server between us and the model gave up waiting; the model may have gone on, and been paid.
GATEWAY_TIMEOUTS = frozenset({504, 524})


class Refusal(msgspec.Struct, frozen=True):
    """What an error body says: its message, all its machine-readable words in lower case, and the request
    fields it complains of."""

    message: str = ""
    codes: frozenset[str] = frozenset()
    fields: frozenset[str] = frozenset()

    def complains_of(self, parameters: Collection[str]) -> str | None:
        """The first of these request parameters that the server says it does not take."""
        for name in parameters:
            if name in self.fields:
                return name
            if _UNWANTED.search(self.message) and re.search(rf"\b{re.escape(name)}\b", self.message):
                return name
        return None


def read_refusal(body: bytes | bytearray) -> Refusal:
    """Understands the error bodies of OpenAI, Azure, FastAPI (vLLM, Voyage, Jina), TEI, Ollama, Cohere,
    Mistral and Gemini; anything else gives an empty Refusal."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Refusal()
    if isinstance(said, list) and said:
        said = said[0]
    if not isinstance(said, dict):
        return Refusal()
    detail = said.get("detail")
    if isinstance(detail, list):
        return _from_fastapi(detail)
    inner = said.get("error")
    source = inner if isinstance(inner, dict) else said
    message = next(
        (
            text
            for text in (source.get("message"), inner, detail, said.get("message"))
            if isinstance(text, str)
        ),
        "",
    )
    words = [source.get(name) for name in ("code", "type", "status", "error_type")]
    details = source.get("details")
    if isinstance(details, list):
        words += [entry.get("reason") for entry in details if isinstance(entry, dict)]
    param = source.get("param")
    return Refusal(
        message=message,
        codes=frozenset(word.lower() for word in words if isinstance(word, str)),
        fields=frozenset({param} if isinstance(param, str) else ()),
    )


def _from_fastapi(detail: list[object]) -> Refusal:
    """Validation errors of FastAPI repeat the input beside the message; only place and message are taken."""
    messages: list[str] = []
    fields: set[str] = set()
    codes: set[str] = set()
    for entry in detail:
        if isinstance(entry, dict):
            place = entry.get("loc")
            names = [part for part in place if isinstance(part, str)] if isinstance(place, list) else []
            fields.update(names[1:2] if names[:1] == ["body"] else names[:1])
            messages.append(f"{'.'.join(names)}: {entry.get('msg')}")
            codes.add(str(entry.get("type")).lower())
    return Refusal("; ".join(messages), frozenset(codes), frozenset(fields))


class CallContext(msgspec.Struct, frozen=True):
    """What the words of an error need to know. It holds the key and the texts only to keep them out."""

    model: str
    host: str
    key_hint: str
    api_key: str | None
    inputs: Sequence[str]
    parameters: Collection[str]

    def __repr__(self) -> str:
        return f"CallContext(model={self.model!r}, host={self.host!r}, inputs={len(self.inputs)})"


def error_for(
    status: int, headers: Mapping[str, str], refusal: Refusal, context: CallContext, now: datetime
) -> ProviderError:
    """The error for an answer that is no 2xx; `headers` has its names in lower case."""
    where = f"{context.host} answered {status}"
    said = _quoted(refusal.message, context)
    if refusal.codes & NO_CREDIT:
        return ProviderRefusedError(f"{where}: no credit is left with the provider{said}")
    if status == 429 or status in (408, 409, 424, 425) or status >= 500:
        return _passing(status, f"{where}: try again later{said}", retry_after_seconds(headers, now))
    if status in (400, 413, 422):
        return _rejection(where, said, refusal, context)
    return ProviderRefusedError(f"{where}: {_advice(status, context)}{'' if status == 401 else said}")


def _passing(status: int, message: str, wait_seconds: float | None) -> ProviderError:
    if status == 429:
        return RateLimitedError(message, retry_after_seconds=wait_seconds)
    charged = status in GATEWAY_TIMEOUTS
    return ProviderUnavailableError(message, retry_after_seconds=wait_seconds, charged=charged)


def _rejection(where: str, said: str, refusal: Refusal, context: CallContext) -> ProviderError:
    if refusal.codes & CALLER_REFUSED:
        return ProviderRefusedError(f"{where}: {context.key_hint}, or the model{said}")
    unwanted = refusal.complains_of(context.parameters)
    if unwanted is not None:
        return ProviderRefusedError(
            f'{where}: it does not take "{unwanted}" for {context.model}; take it out of the pipeline\'s'
            f" params, or set it to null there{said}"
        )
    return InputRejectedError(f"{where}: an input was refused{said}")


def _advice(status: int, context: CallContext) -> str:
    if status in (401, 403):
        return context.key_hint
    if status == 402:
        return "no credit is left with the provider"
    if status == 404:
        return f"there is no model {context.model} at this address; check base_url and model"
    if status < 400:
        return "it points to another address; set base_url to that one"
    return "check base_url and model"


def _quoted(message: str, context: CallContext) -> str:
    words = " ".join(message.split())
    if not words:
        return ""
    if context.api_key and len(context.api_key) >= 4:
        words = words.replace(context.api_key, "[key]")
    words = _without_content(words[: 4 * LONGEST_MESSAGE], context.inputs)
    if len(words) > LONGEST_MESSAGE:
        words = words[: LONGEST_MESSAGE - 1].rstrip() + "…"
    return f' ("{words}")'


def _without_content(words: str, inputs: Sequence[str]) -> str:
    """The message, unless it shares a run of about 20 letters with an input: some servers quote what they
    refuse, and a message goes into logs, tables and pages where content must not be."""
    window, step = 14, 6
    probes = {words[at : at + window] for at in range(0, max(1, len(words) - window + 1), step)}
    for text in inputs:
        plain = " ".join(text.split())
        if 3 < len(plain) < window + step and plain in words:
            return "its words repeat the input and are left out"
        if any(len(probe) == window and probe in plain for probe in probes):
            return "its words repeat the input and are left out"
    return words
