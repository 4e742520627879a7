"""What a form may hold, and what is said of one that cannot be taken. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from embedmill.errors import EmbedmillError


class FormError(EmbedmillError):
    """The form cannot be taken.

    `code` is stable: `not_multipart`, `missing_boundary`, `malformed_form`, `truncated_form`,
    `headers_too_large`, `too_many_files`, `too_many_fields`, `field_too_large`, `form_too_large`,
    `field_not_text`, `unsupported_encoding`. `status` is the HTTP status that suits it (400, 413 or 415).
    """

    def __init__(self, code: str, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


@dataclass(frozen=True)
class FormLimits:
    """Sizes are bytes; `max_total_bytes` counts everything that comes, None is no limit."""

    max_files: int = 100
    max_fields: int = 100
    max_field_bytes: int = 64 * 1024
    max_header_bytes: int = 8 * 1024
    """Of one part, names and values together."""
    max_total_bytes: int | None = None
