"""Structured logs. Owns how they are written, and of whom a line is: tenant and job ids go with the task (`about`), not
with each call. No content of a document and no secret is ever logged."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import structlog

from embedmill.settings import Settings

# Libraries speak in their own words, at `debug` of headers and bodies as well: never below this.
_LIBRARIES_FROM = logging.WARNING
_SHARED: tuple[structlog.typing.Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
)


def configure_logs(settings: Settings) -> None:
    """Write logs to standard error, for people or as JSON lines, from `log_level` on; also what libraries say, of
    warnings and worse."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    renderer: structlog.typing.Processor
    if settings.log_format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[*_SHARED, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED[:-1], _name_library],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    handler.addFilter(_is_libraries)
    root = logging.getLogger()
    for former in [each for each in root.handlers if _is_libraries in each.filters]:
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(max(level, _LIBRARIES_FROM))


def _is_libraries(record: logging.LogRecord) -> bool:
    """All that comes by way of `logging`, from a warning on: we ourselves log by structlog."""
    return record.levelno >= _LIBRARIES_FROM


def _name_library(
    logger: Any, method_name: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    del logger, method_name
    record = event.get("_record")
    if isinstance(record, logging.LogRecord):
        event["logger"] = record.name
    return event


@contextmanager
def about(**whom: object) -> Iterator[None]:
    """Every line from here to the end of the block is about these, in this task and those that it starts:
    `tenant_id`, `job_id`, `job_ids`, `generation_id`, ... None and empty ones are left out."""
    with structlog.contextvars.bound_contextvars(**_plain(whom)):
        yield


def bind(**whom: object) -> None:
    """As `about`, for what is found out in the middle of a block; it ends with the task."""
    structlog.contextvars.bind_contextvars(**_plain(whom))


def forget() -> None:
    """Lines are about nobody again: a request begins."""
    structlog.contextvars.clear_contextvars()


def _plain(whom: dict[str, object]) -> dict[str, object]:
    given = {name: value for name, value in whom.items() if value not in (None, [], ())}
    return {name: str(value) if isinstance(value, UUID) else value for name, value in given.items()}
