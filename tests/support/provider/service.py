"""What the stand-in answers. Owns the decisions for one call: refuse, limit, fail, or answer, in the order
a real provider would. Knows nothing of sockets; time and chance are handed in."""

from __future__ import annotations

import random
from collections.abc import Callable
from email.utils import formatdate
from enum import Enum
from http import HTTPStatus
from typing import cast

import msgspec

from tests.support.provider.answers import embeddings_body
from tests.support.provider.dialects import check_address, spoken
from tests.support.provider.ledger import Ledger, SeenRequest
from tests.support.provider.options import Options, merged
from tests.support.provider.refusals import (
    INVALID_REQUEST,
    RefusedError,
    check_caller,
    check_parameters,
    check_sizes,
    check_texts,
    read_request,
)
from tests.support.provider.vectors import digest_of, tokens_for


class Ending(Enum):
    ANSWER = "answer"
    HANG = "hang"
    DROP = "drop"
    DROP_MID = "drop_mid"
    DRIP = "drip"


class Reply(msgspec.Struct):
    """What goes out, when, and how it ends. `is_call` marks what the ledger counts."""

    status: int
    body: bytes
    headers: dict[str, str] = {}
    content_type: str = "application/json"
    delay_seconds: float = 0.0
    ending: Ending = Ending.ANSWER
    drip_seconds: float = 0.0
    is_call: bool = False
    outcome: str = ""


WORDS_OF_STATUS = {
    400: ("Invalid value.", "invalid_value"),
    401: ("Incorrect API key provided.", "invalid_api_key"),
    402: ("Payment required.", "payment_required"),
    403: ("You have no access to this model.", "forbidden"),
    404: ("The model does not exist.", "model_not_found"),
}
UNPAID_ENDINGS = {
    "drop": Reply(0, b"", ending=Ending.DROP, outcome="drop"),
    "hang": Reply(0, b"", ending=Ending.HANG, outcome="hang"),
}
PAID_ENDINGS = {
    "hang_paid": Reply(0, b"", ending=Ending.HANG, outcome="hang_paid"),
    "drop_after": Reply(0, b"", ending=Ending.DROP, outcome="drop_after"),
    "html": Reply(200, b"<html><body>Welcome</body></html>", content_type="text/html"),
    "not_json": Reply(200, b'{"object":"list","data":[{"object":"embedding","ind'),
    "empty": Reply(200, b""),
}


class Service:
    def __init__(self, options: Options, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self.options = options
        self.ledger = Ledger()
        self._clock = clock
        self._wall = wall
        self._chance = random.Random(options.seed)
        self._faults = list(options.faults)
        self._answers_left = options.answers_before_hang

    def handle(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Reply:
        path = target.partition("?")[0]
        if method == "POST" and path.endswith("/embeddings"):
            return self._call(target, headers, body)
        try:
            return Reply(200, msgspec.json.encode(self._manage(f"{method} {path}", body)))
        except RefusedError as refused:
            return Reply(refused.status, refused.body)

    def _manage(self, what: str, body: bytes) -> object:
        match what:
            case "POST /_control":
                return self._configure(body)
            case "POST /_reset":
                self.ledger.reset()
                return None
            case "GET /_stats":
                return self.ledger.stats()
            case "GET /_paid":
                return {digest.hex(): count for digest, count in self.ledger.paid.items()}
            case "GET /_requests":
                return list(self.ledger.recent)
            case _:
                raise RefusedError(404, f"Unknown request: {what}.")

    def _configure(self, body: bytes) -> Options:
        try:
            changes = msgspec.json.decode(body, type=dict[str, object])
            options = merged(self.options, changes)
        except msgspec.DecodeError as error:
            raise RefusedError(400, str(error)) from error
        if "answers_before_hang" in changes:
            self._answers_left = options.answers_before_hang
        if "faults" in changes:
            self._faults = list(options.faults)
        if "seed" in changes:
            self._chance = random.Random(options.seed)
        self.options = options
        return options

    def _call(self, target: str, headers: dict[str, str], body: bytes) -> Reply:
        self.ledger.call_begins(self._clock())
        try:
            reply = self._decide(target, headers, body)
        except RefusedError as refused:
            status, said, also = spoken(self.options, refused)
            reply = Reply(status, said, headers=also)
        reply.is_call = True
        reply.outcome = reply.outcome or str(reply.status)
        reply.delay_seconds = self._delay_seconds()
        return reply

    def _delay_seconds(self) -> float:
        jitter = self.options.latency_jitter_ms
        return (self.options.latency_ms + (jitter * self._chance.random() if jitter else 0.0)) / 1000

    def _decide(self, target: str, headers: dict[str, str], body: bytes) -> Reply:
        fault = self._next_fault()
        if fault in UNPAID_ENDINGS:
            return msgspec.structs.replace(UNPAID_ENDINGS[fault])
        texts, parameters = read_request(body)
        self.ledger.recent.append(SeenRequest(target, headers, parameters, len(texts)))
        check_address(self.options, target, headers)
        check_caller(self.options, headers, parameters["model"])
        check_parameters(self.options, parameters)
        check_texts(self.options, texts)
        counts = [tokens_for(text) for text in texts]
        check_sizes(self.options, counts)
        tokens = sum(counts)
        self._check_rates(tokens)
        if fault == "redirect":
            return Reply(307, b"", headers={"location": "/v2/embeddings"})
        if fault is not None:
            self._check_fault(fault)
        digests = [digest_of(text) for text in texts]
        self.ledger.pay(digests, tokens)
        if fault in PAID_ENDINGS:
            return msgspec.structs.replace(PAID_ENDINGS[fault])
        return self._answer(digests, tokens, parameters, fault)

    def _next_fault(self) -> str | None:
        if self._faults:
            return self._faults.pop(0)
        options = self.options
        if self._answers_left is not None:
            self._answers_left -= 1
            if self._answers_left < 0:
                return "hang"
        for rate, fault in (
            (options.fail_rate_500, "500"),
            (options.hang_rate, "hang"),
            (options.drop_rate, "drop"),
            (options.drop_after_rate, "drop_after"),
        ):
            if rate and self._chance.random() < rate:
                return fault
        return None

    def _check_rates(self, tokens: int) -> None:
        options = self.options
        if options.calls_per_minute is None and options.tokens_per_minute is None:
            return
        limits = (options.calls_per_minute, options.tokens_per_minute)
        wait = self.ledger.admit(self._clock(), tokens, *limits, options.window_seconds)
        if wait:
            raise self._too_many(wait)

    def _too_many(self, wait_seconds: float) -> RefusedError:
        options = self.options
        said = options.retry_after_seconds
        wait = wait_seconds if said is None else said
        calls, tokens = self.ledger.remaining(options.calls_per_minute, options.tokens_per_minute)
        headers = {
            "x-ratelimit-limit-requests": str(options.calls_per_minute or 0),
            "x-ratelimit-limit-tokens": str(options.tokens_per_minute or 0),
            "x-ratelimit-remaining-requests": str(calls),
            "x-ratelimit-remaining-tokens": str(tokens),
            "x-ratelimit-reset-requests": f"{wait:.3f}s",
            "x-ratelimit-reset-tokens": f"{wait:.3f}s",
        }
        whole = int(wait) + (wait > int(wait))
        if options.retry_after == "seconds":
            headers["retry-after"] = str(whole)
        elif options.retry_after == "ms":
            headers["retry-after-ms"] = f"{wait * 1000:.0f}"
        elif options.retry_after == "date":
            headers["retry-after"] = formatdate(self._wall() + whole, usegmt=True)
        return RefusedError(429, "Rate limit reached.", code="rate_limit_exceeded", headers=headers)

    def _check_fault(self, fault: str) -> None:
        """Raise the refusal that this fault is, if it is one."""
        if fault == "insufficient_quota":
            raise RefusedError(429, "You exceeded your current quota.", code="insufficient_quota")
        if fault == "429":
            raise self._too_many(1.0)
        if fault.isdecimal():
            status = int(fault)
            message, code = WORDS_OF_STATUS.get(status, (phrase_of(status), None))
            kind = "server_error" if status >= 500 else INVALID_REQUEST
            raise RefusedError(status, message, code=code, kind=kind)

    def _answer(
        self, digests: list[bytes], tokens: int, parameters: dict[str, object], fault: str | None
    ) -> Reply:
        options = self.options
        model = cast(str, parameters["model"])
        dimensions = options.dimensions
        if options.dimensions_parameter == "serve":
            asked = parameters.get("dimensions") or parameters.get("output_dimension")
            dimensions = cast(int, asked or dimensions)
        body = embeddings_body(
            digests,
            dimensions=dimensions,
            salt=f"{options.salt}{model}" if options.salt_by_model else options.salt,
            model=model,
            tokens=tokens,
            as_base64=options.base64 == "serve" and parameters.get("encoding_format") == "base64",
            fault=fault,
            omit_index_zero=options.omit_index_zero,
        )
        if fault == "drop_mid":
            return Reply(200, body, ending=Ending.DROP_MID, outcome="drop_mid")
        if fault == "slow_body":
            return Reply(200, body, ending=Ending.DRIP, drip_seconds=options.slow_body_seconds)
        return Reply(200, body)


def phrase_of(status: int) -> str:
    """The words that go with a status, for any number."""
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"
