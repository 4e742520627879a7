"""How servers other than OpenAI's say the same things: where they want the key, and the shape of their refusals.
Owns the difference only; what is refused is decided as ever (refusals.py)."""

from __future__ import annotations

import re

import msgspec

from tests.support.provider.options import Options
from tests.support.provider.refusals import RefusedError

_AZURE_PATH = re.compile(r"/openai/(v1|deployments/[^/]+)/embeddings")
# Hugging Face's text-embeddings-inference: (status, error type) of what OpenAI answers with this status.
_TEI = {400: (413, "Validation"), 429: (429, "Overloaded"), 500: (424, "Backend"), 503: (503, "Unhealthy")}


def check_address(options: Options, target: str, headers: dict[str, str]) -> None:
    """What Azure wants to see: its paths, the version with the older one, the key in its own header."""
    if options.dialect != "azure":
        return
    path, _, query = target.partition("?")
    found = _AZURE_PATH.fullmatch(path)
    if found is None or (found[1] != "v1" and "api-version=" not in query):
        raise RefusedError(404, "Resource not found", code="404")
    if options.api_key is not None and headers.get("api-key") != options.api_key:
        raise RefusedError(
            401, "Access denied due to invalid subscription key or wrong API endpoint.", code="401"
        )


def spoken(options: Options, refused: RefusedError) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of a refusal in the words of the dialect."""
    message = str(refused)
    if options.dialect == "azure":
        error = {"code": refused.code or str(refused.status), "message": message}
        return refused.status, msgspec.json.encode({"error": error}), refused.headers
    if options.dialect == "tei":
        status, kind = _TEI.get(refused.status, (refused.status, "Validation"))
        # An overloaded TEI says nothing of when to come again.
        return status, msgspec.json.encode({"message": message, "code": status, "type": kind}), {}
    if options.dialect == "ollama":
        kind = {404: "not_found_error", 400: "invalid_request_error"}.get(refused.status, "api_error")
        error_body = {"message": message, "type": kind, "param": None, "code": None}
        return refused.status, msgspec.json.encode({"error": error_body}), {}
    return refused.status, refused.body, refused.headers
