"""What the stand-in refuses, in the words of the servers it stands for. Owns the checks of one request
against the options; counts and limits in time are the service's and the ledger's."""

from __future__ import annotations

import msgspec

from tests.support.provider.options import Options

INVALID_REQUEST = "invalid_request_error"


class RefusedError(Exception):
    """The answer is an error: status and OpenAI's shape of one."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = INVALID_REQUEST,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers or {}
        error = {"message": message, "type": kind, "param": param, "code": code}
        self.body = msgspec.json.encode({"error": error})


def read_request(body: bytes) -> tuple[list[str], dict[str, object]]:
    """The texts, and all the other parameters; raises RefusedError where there is no such request."""
    try:
        parameters = msgspec.json.decode(body, type=dict[str, object])
        given = msgspec.convert(parameters.pop("input", None), str | list[str])
        msgspec.convert(parameters.get("model"), str)
        msgspec.convert(parameters.get("dimensions"), int | None)
    except msgspec.DecodeError as error:
        raise RefusedError(400, f"We could not parse the body of your request: {error}") from error
    return [given] if isinstance(given, str) else given, parameters


def check_caller(options: Options, headers: dict[str, str], model: object) -> None:
    if options.api_key is not None:
        shown = headers.get("api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        if shown != options.api_key:
            raise RefusedError(401, f"Incorrect API key provided: {shown}.", code="invalid_api_key")
    if options.model is not None and model != options.model:
        raise RefusedError(404, f"The model `{model}` does not exist.", code="model_not_found")


def check_parameters(options: Options, parameters: dict[str, object]) -> None:
    if options.base64 == "reject" and "encoding_format" in parameters:
        raise RefusedError(400, "Unknown parameter: 'encoding_format'.", param="encoding_format")
    if options.base64 == "reject_vaguely" and "encoding_format" in parameters:
        raise RefusedError(400, "Request contains an invalid argument.")
    if options.dimensions_parameter == "reject" and "dimensions" in parameters:
        raise RefusedError(400, "This model does not support specifying dimensions.", param="dimensions")
    if options.known_parameters is not None:
        for name in parameters:
            if name not in options.known_parameters and name != "model":
                raise RefusedError(400, f"Unrecognized request argument supplied: {name}")


def check_texts(options: Options, texts: list[str]) -> None:
    if not texts or (options.reject_empty_text and "" in texts):
        raise RefusedError(400, "'$.input' is invalid. Please check the API reference.", param="input")
    if options.poison is not None:
        for text in texts:
            if options.poison in text:
                quoted = f": {text}" if options.poison_names_input else "."
                message = f"The input was rejected by the content filter{quoted}"
                raise RefusedError(400, message, param="input")


def check_sizes(options: Options, counts: list[int]) -> None:
    inputs, longest, tokens = len(counts), max(counts), sum(counts)
    if options.max_inputs_per_call is not None and inputs > options.max_inputs_per_call:
        most = options.max_inputs_per_call
        raise RefusedError(400, f"'input' array must have at most {most} items.", param="input")
    if options.max_tokens_per_input is not None and longest > options.max_tokens_per_input:
        most = options.max_tokens_per_input
        raise RefusedError(400, f"This model's maximum context length is {most} tokens.", param="input")
    if options.max_tokens_per_call is not None and tokens > options.max_tokens_per_call:
        most = options.max_tokens_per_call
        raise RefusedError(400, f"Requested {tokens} tokens, max {most} tokens per request", param="input")
