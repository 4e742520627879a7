"""How large a request may be. Owns the counting of its bytes, before anything reads them; what a form may hold is
multipart.py's."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedmill.api.problems import Problem, problem_response

_MIB = 1024 * 1024
_MOST_JSON_BYTES = 2 * _MIB
# Many shards in one request; it is whole in memory.
_MOST_SHARD_BYTES = 64 * _MIB
_SHARDS_PATH = "/api/v1/shards"
_AMBIGUOUS = Problem(
    400,
    "invalid_request",
    "a request has a Content-Length or a Transfer-Encoding, not both",
    headers={"Connection": "close"},
)


class BodyLimit:
    """Ends requests that say, or turn out, to be larger than they may be: forms `max_form_bytes`, shards 64 MiB
    and no more than a form, others 2 MiB."""

    def __init__(self, application: ASGIApp, *, max_form_bytes: int) -> None:
        self._application = application
        self._max_form_bytes = max_form_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if b"content-length" in headers and b"transfer-encoding" in headers:
            # Two readers would disagree where it ends: what one takes for its body, the other takes for a request.
            await problem_response(_AMBIGUOUS)(scope, receive, send)
            return
        is_form = headers.get(b"content-type", b"").lower().startswith(b"multipart/")
        most = self._max_form_bytes if is_form else _MOST_JSON_BYTES
        if not is_form and scope["path"].startswith(_SHARDS_PATH):
            most = min(self._max_form_bytes, _MOST_SHARD_BYTES)
        said = headers.get(b"content-length", b"0")
        if not said.isdigit() or int(said) > most:
            await problem_response(_too_large(most))(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                # An error of HTTP, which FastAPI lets through when it reads a body.
                raise HTTPException(413, _too_large(most).detail)
            return message

        await self._application(scope, counted, send)


def _too_large(most: int) -> Problem:
    return Problem(413, "too_large", f"a request of this kind has at most {most // _MIB:,} MiB")
