"""What the stand-in can be told to do. Owns the options and their checks; every one may change at run time
by POST /_control. Must stay plain data."""

from __future__ import annotations

from typing import Literal

import msgspec

Fault = str
"""A status ("500", "429"), or a word of FAULT_WORDS."""

FAULT_WORDS = frozenset(
    {
        "hang",  # never answers; not paid
        "hang_paid",  # never answers; paid
        "drop",  # closes the connection before it does anything; not paid
        "drop_after",  # paid, then closes the connection without an answer
        "drop_mid",  # paid, then closes in the middle of the answer
        "short",  # one vector too few
        "extra",  # one vector too many
        "reordered",  # the items in reverse, each with its right index
        "duplicate_index",
        "missing_index",  # the last item has no index
        "no_index",  # no item has one
        "wrong_index",  # an index out of range
        "nan",
        "inf",
        "zero",  # a vector of zeros
        "wrong_dims",  # every vector one number too short
        "mixed_dims",  # only the last vector one number too short
        "html",  # 200 with a web page
        "not_json",
        "empty",  # 200 with no body
        "slow_body",  # a right answer, drop by drop over `slow_body_seconds`
        "bad_usage",  # a right answer with a broken `usage`
        "insufficient_quota",  # 429 that no waiting mends
        "redirect",
    }
)


class Options(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The defaults answer every call at once with vectors of 1536 dimensions."""

    dimensions: int = 1536
    salt: str = ""  # another salt, other vectors
    salt_by_model: bool = False  # the name of the model becomes part of the salt
    model: str | None = None  # refuse every other with 404
    api_key: str | None = None  # refuse every other with 401

    dialect: Literal["openai", "azure", "tei", "ollama"] = (
        "openai"  # where the key stands, what refusals look like
    )
    base64: Literal["serve", "ignore", "reject", "reject_vaguely"] = "serve"
    dimensions_parameter: Literal["serve", "ignore", "reject"] = "serve"
    known_parameters: list[str] | None = None  # refuse every other parameter with 400
    omit_index_zero: bool = False  # as Gemini does
    reject_empty_text: bool = True  # as OpenAI does

    latency_ms: float = 0.0
    latency_jitter_ms: float = 0.0  # up to so much more
    slow_body_seconds: float = 2.0

    calls_per_minute: int | None = None
    tokens_per_minute: int | None = None
    window_seconds: float = 60.0  # the length of that "minute"
    retry_after: Literal["seconds", "date", "ms", "none"] = "seconds"
    retry_after_seconds: float | None = None  # say this, whatever is true

    max_inputs_per_call: int | None = 2048
    max_tokens_per_call: int | None = None
    max_tokens_per_input: int | None = None
    poison: str | None = None  # a call with an input that contains this: 400
    poison_names_input: bool = False  # and the refusal quotes the input, as some servers do

    fail_rate_500: float = 0.0
    hang_rate: float = 0.0
    drop_rate: float = 0.0  # before it is paid
    drop_after_rate: float = 0.0  # paid and lost
    answers_before_hang: int | None = None  # answer so many more calls, then none: it never answers, unpaid
    faults: list[Fault] = []  # for the next calls, one each; then gone
    seed: int = 0  # of the rates and the jitter

    def __post_init__(self) -> None:
        for fault in self.faults:
            if fault not in FAULT_WORDS and not (fault.isdecimal() and 100 <= int(fault) <= 599):
                raise ValueError(f"unknown fault {fault!r}: a status, or one of {sorted(FAULT_WORDS)}")
        if self.dimensions < 1:
            raise ValueError("dimensions must be 1 or more")


def merged(options: Options, changes: dict[str, object]) -> Options:
    """The options with these changes; msgspec.ValidationError says which one is wrong."""
    return msgspec.convert({**msgspec.to_builtins(options), **changes}, Options)
