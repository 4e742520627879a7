"""The HTTP application: its endpoints, errors and description. Owns how they are put together; must not listen."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fastapi import APIRouter, FastAPI

from embedmill import __version__
from embedmill.api import (
    alerts,
    audits,
    batches,
    coverage,
    embedding_jobs,
    health,
    ingestion_jobs,
    keys,
    metrics,
    pipelines,
    process_queue,
    search,
    shard_feeds,
    shards,
    streaming,
    usage,
    webhooks,
)
from embedmill.api.examples import add_examples
from embedmill.api.limits import BodyLimit
from embedmill.api.problems import ProblemDetails, describe, install
from embedmill.api.service import Doorkeeper
from embedmill.service import ServiceApp

_DESCRIPTION = (
    "Documents and records into vectors that people can trust. Errors are RFC 9457 problems with a stable `code`. "
    "Times are UTC, costs US dollars; a cost of null is unknown, not nothing."
)


def build_application(service: ServiceApp, *, needs_keys: bool) -> FastAPI:
    """The application on an open service. `needs_keys`: also where none was made yet."""
    application = FastAPI(
        title="embedmill",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        separate_input_output_schemas=False,
    )
    application.state.service = service
    application.state.streams = Counter[int]()
    application.state.scrapers = dict[bytes, float]()
    application.state.doorkeeper = Doorkeeper(service, needs_keys=needs_keys)
    install(application)
    application.add_middleware(BodyLimit, max_form_bytes=int(service.settings.max_request_mb * 1024 * 1024))
    application.add_middleware(metrics.RequestTelemetry, service=service)
    application.include_router(health.router)
    application.include_router(metrics.router)
    api = APIRouter(prefix="/api/v1")
    for part in (
        ingestion_jobs,
        batches,
        streaming,
        embedding_jobs,
        search,
        usage,
        pipelines,
        webhooks,
        alerts,
        audits,
        shards,
        shard_feeds,
        keys,
        coverage,
        process_queue,
    ):
        api.include_router(part.router)
    application.include_router(api)
    _describe(application)
    return application


def _describe(application: FastAPI) -> None:
    """The description with what FastAPI does not know: our errors, and how one says who one is."""
    original = application.openapi

    def openapi() -> dict[str, Any]:
        if application.openapi_schema is None:
            schema = original()
            components = schema.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
            problem = ProblemDetails.model_json_schema(
                by_alias=True, ref_template="#/components/schemas/{model}"
            )
            schemas.update(problem.pop("$defs", {}))
            schemas["ProblemDetails"] = problem
            schemas.update(shards.SCHEMAS)
            components["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"apiKey": []}, {}]
            _replace_validation_errors(schema)
            add_examples(schema)
            _add_what_any_may_answer(schema)
            application.openapi_schema = schema
        return application.openapi_schema

    application.openapi = openapi  # type: ignore[method-assign]


def _add_what_any_may_answer(schema: dict[str, Any]) -> None:
    """A database that is away, and a body that is too large or cannot be read, are met before an endpoint is."""
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            if not path.startswith("/api/"):
                continue
            met = (400, 413, 422, 503) if "requestBody" in operation else (400, 503)
            for status, answer in describe(*met).items():
                operation["responses"].setdefault(str(status), answer)


def _replace_validation_errors(schema: dict[str, Any]) -> None:
    """FastAPI describes its own answer to an invalid request, which is never given here."""
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    for path in schema["paths"].values():
        for operation in path.values():
            answer = operation.get("responses", {}).get("422")
            if answer is not None:
                answer["content"] = problem
