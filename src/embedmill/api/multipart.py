"""Forms with files, read as they arrive: each file is handed on while it is still on its way, so that a form takes
no more memory than one network chunk and its small fields. Owns what a form may hold; must not store anything. No
task is started and nothing is queued: whoever reads a file pulls the request, and holds it back by not reading."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from embedmill.api.file_names import clean_name
from embedmill.api.form_limits import FormError, FormLimits
from embedmill.api.form_stream import FormStream, PartHead
from embedmill.api.part_headers import boundary_of, media_type_of

__all__ = ["FilePart", "Form", "FormError", "FormLimits", "clean_name", "read_form"]

T = TypeVar("T")


@dataclass(frozen=True)
class FilePart:
    """A file of a form: `field` is the name of its box, `name` is clean (1 to 255 characters, no path), the media
    type is what the client says (None: nothing that is one). `index` counts the files of a form from 0."""

    field: str
    name: str
    media_type: str | None
    index: int


@dataclass(frozen=True)
class Form(Generic[T]):
    """Texts by name, in the order they came; `files` holds what on_file returned for each."""

    fields: dict[str, list[str]]
    files: list[T]


async def read_form(
    request_stream: AsyncIterator[bytes],
    content_type: str,
    *,
    on_file: Callable[[FilePart, AsyncIterator[bytes]], Awaitable[T]],
    limits: FormLimits,
) -> Form[T]:
    """Read the form to its end, calling `on_file` for each file in turn with its bytes as they arrive.

    What `on_file` leaves unread is passed over; what it raises ends the reading at once. Where the body breaks
    off, or breaks a limit, the iterator raises the FormError within `on_file`, so that a file is never taken
    for whole; it is raised from here even if `on_file` swallows it. Raises FormError (a client that went away is
    `truncated_form`), and what `on_file` and the stream raise.
    """
    stream = FormStream(request_stream, _boundary(content_type), limits)
    form: Form[T] = Form({}, [])
    fields = 0
    while (head := await stream.next_head()) is not None:
        is_empty_box = head.file_name == "" and await stream.is_at_end_of_part()
        if head.file_name is None or is_empty_box:
            fields += 1
            _check_count("fields", fields, limits.max_fields)
            if not is_empty_box:  # a browser sends a box in which no file was chosen
                form.fields.setdefault(head.name, []).append(await _read_text(stream, head, limits))
        else:
            _check_count("files", len(form.files) + 1, limits.max_files)
            part = FilePart(head.name, clean_name(head.file_name), head.media_type, len(form.files))
            form.files.append(await _hand_on(stream, part, on_file))
        await stream.end_part()
    return form


async def _hand_on(
    stream: FormStream, part: FilePart, on_file: Callable[[FilePart, AsyncIterator[bytes]], Awaitable[T]]
) -> T:
    content = _Content(stream)
    try:
        result = await on_file(part, content)
    finally:
        content.close()
    if stream.failure is not None:
        raise stream.failure
    return result


class _Content:
    """The bytes of one file. Not to be read after its turn: they would be those of the next part."""

    def __init__(self, stream: FormStream) -> None:
        self._stream = stream
        self._is_closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._is_closed:
            raise RuntimeError("a file of a form is read while on_file runs, and not after it")
        chunk = await self._stream.next_chunk()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    def close(self) -> None:
        self._is_closed = True


async def _read_text(stream: FormStream, head: PartHead, limits: FormLimits) -> str:
    held = bytearray()
    while (chunk := await stream.next_chunk()) is not None:
        held += chunk
        if len(held) > limits.max_field_bytes:
            raise FormError(
                "field_too_large",
                f"the field {head.name[:50]!r} has more than {limits.max_field_bytes:,} bytes; "
                "a file needs a filename in its part",
                status=413,
            )
    try:
        text = held.decode(head.codec) if head.codec else None
    except UnicodeDecodeError:
        text = None
    if text is None or "\x00" in text:
        raise FormError(
            "field_not_text",
            f"the field {head.name[:50]!r} is not text in UTF-8; a file needs a filename in its part",
        )
    return text


def _boundary(content_type: str) -> bytes:
    if media_type_of(content_type) != "multipart/form-data":
        raise FormError("not_multipart", "send the files as multipart/form-data", status=415)
    boundary = boundary_of(content_type)
    if boundary is None:
        raise FormError(
            "missing_boundary",
            "the header Content-Type names no usable boundary: let the HTTP library set that header by itself",
        )
    return boundary


def _check_count(what: str, count: int, most: int) -> None:
    if count > most:
        raise FormError(
            f"too_many_{what}", f"a form may have {most} {what}: send the others in another", status=413
        )
