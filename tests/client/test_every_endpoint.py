"""The client against the API's own description: no endpoint, field or wish of the service is missing in it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec
import pytest

from embedmill import AsyncClient, Client
from embedmill.api.application import build_application
from embedmill.client import AsyncJob, Job
from embedmill.client.endpoints import ENDPOINTS
from embedmill.client.errors import Violation
from embedmill.client.job_facts import Fact, JobFacts
from embedmill.client.records import (
    access,
    alerts,
    audits,
    coverage,
    embedding_jobs,
    jobs,
    knowledge,
    shards,
    webhooks,
)
from embedmill.client.records.base import Record
from embedmill.client.uploads import UploadWishes, json_of
from embedmill.errors import EmbedmillError
from tests.client.scripted import Says, scripted

SOME = UUID(int=1)
# Where the service's own word says too little beside the client's others.
OTHER_NAMES = {"PipelineOut": "Pipeline", "DeliveryRecord": "Delivery", "TestAnswer": "WebhookTest"}
REQUESTS = {
    "Acknowledgement",
    "FeedWishes",
    "JobChange",
    "NewAudit",
    "NewBudget",
    "NewKey",
    "NewShard",
    "NewWebhook",
    "ProcessRequest",
    "Query",
    "ShardBatch",
    "ShardChange",
    "WebhookChange",
}
WORDS = {"Role", "Mode", "ProblemDetails"}


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    """/openapi.json; making it needs no database."""
    settings = SimpleNamespace(max_request_mb=1.0, requests_per_minute=1)
    return build_application(SimpleNamespace(settings=settings), needs_keys=False).openapi()  # type: ignore[arg-type]


def operations_of(description: dict[str, Any]) -> set[tuple[str, str]]:
    return {(verb.upper(), path) for path, verbs in description["paths"].items() for verb in verbs}


CALLS: dict[str, Callable[[Client], object]] = {
    "upload": lambda client: client.upload(b"x", name="a.txt"),
    "upload_files": lambda client: client.upload_files([("a.txt", b"x")]),
    "upload_url": lambda client: client.upload_url("https://example.com/a.pdf"),
    "job": lambda client: client.job(SOME),
    "jobs": lambda client: next(client.jobs()),
    "batch": lambda client: client.batch(SOME),
    "launch_batch": lambda client: client.launch_batch(SOME),
    "cancel_batch": lambda client: client.cancel_batch(SOME),
    "resume_batch": lambda client: client.resume_batch(SOME),
    "wait_for_batch": lambda client: client.wait_for_batch(SOME),
    "batch_events": lambda client: next(client.batch_events(SOME)),
    "events": lambda client: next(client.events()),
    "put_shard": lambda client: client.put_shard("t", "a/b", "x"),
    "get_shard": lambda client: client.get_shard("t", "a/b"),
    "delete_shard": lambda client: client.delete_shard("t", "a/b"),
    "put_shards": lambda client: client.put_shards([{"shard_type_id": "t", "shard_id": "a", "content": "x"}]),
    "shard_feeds": lambda client: client.shard_feeds(),
    "shard_feed": lambda client: client.shard_feed("t"),
    "put_shard_feed": lambda client: client.put_shard_feed("t"),
    "remove_shard_feed": lambda client: client.remove_shard_feed("t"),
    "search": lambda client: client.search("x"),
    "pipelines": lambda client: client.pipelines(),
    "pipeline": lambda client: client.pipeline("my pipeline"),
    "embedding_jobs": lambda client: next(client.embedding_jobs()),
    "embedding_job": lambda client: client.embedding_job(7),
    "embedding_job_counts": lambda client: client.embedding_job_counts(),
    "coverage": lambda client: client.coverage(),
    "activity": lambda client: client.activity(),
    "process_queue": lambda client: client.process_queue(),
    "usage": lambda client: client.usage(),
    "budget": lambda client: client.budget(),
    "set_budget": lambda client: client.set_budget(1.0),
    "remove_budget": lambda client: client.remove_budget(),
    "webhooks": lambda client: client.webhooks(),
    "webhook": lambda client: client.webhook(SOME),
    "create_webhook": lambda client: client.create_webhook("https://example.com"),
    "change_webhook": lambda client: client.change_webhook(SOME, is_active=False),
    "delete_webhook": lambda client: client.delete_webhook(SOME),
    "rotate_webhook_secret": lambda client: client.rotate_webhook_secret(SOME),
    "test_webhook": lambda client: client.test_webhook(SOME),
    "deliveries": lambda client: next(client.deliveries(SOME)),
    "redeliver": lambda client: client.redeliver(SOME, SOME),
    "alerts": lambda client: next(client.alerts()),
    "acknowledge_alert": lambda client: client.acknowledge_alert(1),
    "audits": lambda client: client.audits(),
    "order_audit": lambda client: client.order_audit(),
    "whoami": lambda client: client.whoami(),
    "keys": lambda client: client.keys(),
    "create_key": lambda client: client.create_key("ci", "reader"),
    "revoke_key": lambda client: client.revoke_key(SOME),
    "health": lambda client: client.health(),
    "ready": lambda client: client.ready(),
}
JOB_CALLS: dict[str, Callable[[Job], object]] = {
    "refresh": lambda job: job.refresh(),
    "launch": lambda job: job.launch(),
    "cancel": lambda job: job.cancel(),
    "resume": lambda job: job.resume(),
    "retry": lambda job: job.retry(),
    "delete": lambda job: job.delete(),
    "change": lambda job: job.change(priority="low"),
    "set_plan": lambda job: job.set_plan(chunk_tokens=64),
    "set_priority": lambda job: job.set_priority("low"),
    "set_budget": lambda job: job.set_budget(1.0),
    "chunks": lambda job: next(job.chunks()),
    "estimate": lambda job: job.estimate(),
    "text": lambda job: job.text(),
    "events": lambda job: next(job.events()),
    "wait": lambda job: job.wait(),
}


def public_methods(kind: type) -> set[str]:
    return {
        name for name in dir(kind) if not name.startswith("_") and inspect.isroutine(getattr(kind, name))
    } - {"close"}


def test_the_table_of_endpoints_is_the_services(description: dict[str, Any]) -> None:
    assert {(one.method, one.path) for one in ENDPOINTS} == operations_of(description)


def test_every_endpoint_is_reached_by_a_method_and_every_method_reaches_one(
    description: dict[str, Any],
) -> None:
    assert public_methods(Client) == public_methods(AsyncClient) == set(CALLS)
    assert public_methods(Job) == public_methods(AsyncJob) == set(JOB_CALLS)
    with scripted(otherwise=Says(418)) as server, Client(server.address, retries=0) as client:
        job = Job(client._asking, an_instance(jobs.IngestionJob))
        for name, call in CALLS.items():
            before = len(server.asked)
            with pytest.raises(EmbedmillError):
                call(client)
            assert len(server.asked) > before, name
        for name, act in JOB_CALLS.items():
            before = len(server.asked)
            with pytest.raises(EmbedmillError):
                act(job)
            assert len(server.asked) > before, name
    reached = {(one.method, template_of(one.path.partition("?")[0], description)) for one in server.asked}
    assert reached == operations_of(description)


def template_of(path: str, description: dict[str, Any]) -> str:
    """The most literal template that a path fits."""
    fits = [
        template
        for template in description["paths"]
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path)
    ]
    return min(fits, key=lambda template: template.count("{"))


def records() -> dict[str, type[msgspec.Struct]]:
    found: dict[str, type[msgspec.Struct]] = {"Violation": Violation}
    for module in (access, alerts, audits, coverage, embedding_jobs, jobs, knowledge, shards, webhooks):
        found |= {
            name: value
            for name, value in vars(module).items()
            if inspect.isclass(value) and issubclass(value, Record) and value is not Record
        }
    return found


def test_every_schema_has_its_record_and_every_record_its_schema(description: dict[str, Any]) -> None:
    schemas = set(description["components"]["schemas"]) - REQUESTS - WORDS
    assert {OTHER_NAMES.get(name, name) for name in schemas} == set(records())


def test_every_field_of_every_schema_stands_in_its_record_and_may_be_null_where_it_may(
    description: dict[str, Any],
) -> None:
    for name, schema in description["components"]["schemas"].items():
        if name in REQUESTS | WORDS:
            continue
        record = records()[OTHER_NAMES.get(name, name)]
        hints = get_type_hints(record)
        ours = {field.encode_name: hints[field.name] for field in msgspec.structs.fields(record)}
        assert set(ours) == set(schema["properties"]), name
        for field, shape in schema["properties"].items():
            may_be_null = any(option.get("type") == "null" for option in shape.get("anyOf", []))
            assert is_optional(ours[field]) == may_be_null, (name, field)


def test_every_wish_of_an_upload_can_be_uttered(description: dict[str, Any]) -> None:
    content = description["paths"]["/api/v1/ingestion-jobs"]["post"]["requestBody"]["content"]
    ours = set(json_of(dict.fromkeys(UploadWishes.__annotations__, 1)))
    assert ours | {"file"} == set(content["multipart/form-data"]["schema"]["properties"])
    assert ours | {"url"} == set(content["application/json"]["schema"]["properties"])


@pytest.mark.parametrize(
    ("call", "schema"),
    [
        (
            lambda client: client.search(
                "x", pipeline="p", mode="text", limit=1, document_id=1, source="s", metadata={}, user_id="u"
            ),
            "Query",
        ),
        (
            lambda client: client.put_shard_feed("t", pipeline="p", template="$a", priority="low"),
            "FeedWishes",
        ),
        (lambda client: client.acknowledge_alert(1, seconds=60), "Acknowledgement"),
        (lambda client: client.order_audit(source="s", pipeline="p", repair=True), "NewAudit"),
        (
            lambda client: client.put_shard("t", "a", "x", fields={}, metadata={}, version=1),
            "NewShard",
        ),
        (lambda client: client.set_budget(1.0, period="total"), "NewBudget"),
        (lambda client: client.create_key("n", "reader", expires_in_days=1), "NewKey"),
        (lambda client: client.create_webhook("u", event_types=["job.failed"], description="d"), "NewWebhook"),
        (
            lambda client: client.change_webhook(SOME, url="u", event_types=[], description="d", is_active=True),
            "WebhookChange",
        ),
        (
            lambda client: Job(client._asking, an_instance(jobs.IngestionJob)).change(
                chunk_tokens=9, chunk_overlap=0, priority="low", metadata={}, budget_usd=None
            ),
            "JobChange",
        ),
    ],
)  # fmt: skip
def test_every_field_of_a_request_can_be_uttered(
    call: Callable[[Client], object], schema: str, description: dict[str, Any]
) -> None:
    with (
        scripted(otherwise=Says(418)) as server,
        Client(server.address) as client,
        pytest.raises(EmbedmillError),
    ):
        call(client)
    said = msgspec.json.decode(server.asked[0].body)
    assert set(said) == set(description["components"]["schemas"][schema]["properties"])


def test_every_query_parameter_can_be_uttered(description: dict[str, Any]) -> None:
    """By the names of the arguments of the methods that list."""
    listings = {
        "/api/v1/ingestion-jobs": Client.jobs,
        "/api/v1/embedding-jobs": Client.embedding_jobs,
        "/api/v1/embedding-jobs/stats": Client.embedding_job_counts,
        "/api/v1/shards/{shardTypeId}": Client.shard_feed,
        "/api/v1/shards/{shardTypeId}/{shardId}": Client.get_shard,
        "/api/v1/alerts": Client.alerts,
        "/api/v1/coverage": Client.coverage,
        "/api/v1/activity": Client.activity,
        "/api/v1/usage": Client.usage,
        "/api/v1/webhooks/{webhookId}/deliveries": Client.deliveries,
        "/api/v1/ingestion-jobs/{jobId}/chunks": Job.chunks,
        "/api/v1/ingestion-jobs/{jobId}/text": Job.text,
    }
    asked_by_paging = {"cursor", "limit"}
    for path, verbs in description["paths"].items():
        wanted = {
            one["name"] for one in verbs.get("get", {}).get("parameters", []) if one["in"] == "query"
        } - asked_by_paging
        if wanted:
            arguments = set(inspect.signature(listings[path]).parameters)
            assert wanted <= set(json_of(dict.fromkeys(arguments, 1))), path


def test_a_job_tells_every_field_of_its_record() -> None:
    job = Job(None, an_instance(jobs.IngestionJob))  # type: ignore[arg-type] - asks nothing
    fields = [field.name for field in msgspec.structs.fields(jobs.IngestionJob)]
    assert {name for name, fact in vars(JobFacts).items() if isinstance(fact, Fact)} == {*fields, "has_ended"}
    for name in [*fields, "has_ended"]:
        assert getattr(job, name) == getattr(job.record, name), name


def an_instance(kind: type[Record]) -> Any:
    """A record with a different value in each field, as far as its type allows."""
    counter = iter(range(1, 1000))
    raw = {
        field.encode_name: example(get_type_hints(kind)[field.name], counter)
        for field in msgspec.structs.fields(kind)
    }
    return msgspec.convert(raw, kind)


def example(hint: Any, counter: Iterator[int]) -> Any:
    if is_optional(hint):
        return example(next(one for one in get_args(hint) if one is not type(None)), counter)
    number = next(counter)
    if inspect.isclass(hint) and issubclass(hint, Record):
        return msgspec.to_builtins(an_instance(hint))
    if get_origin(hint) is dict:
        return {"key": number}
    simple: dict[Any, Any] = {
        UUID: str(UUID(int=number)),
        str: f"text {number}",
        int: number,
        float: float(number),
        bool: True,
    }
    return simple.get(hint, f"2026-01-01T00:{number:02}:00Z")


def is_optional(hint: Any) -> bool:
    return get_origin(hint) in {Union, UnionType} and type(None) in get_args(hint)
