"""A property-based attack on the API from its own description: requests that fit it and requests that do not, whose ids
are real now and then. No 5xx, no answer that the description does not know, and nothing in one that is nobody's
business. EMBEDMILL_TEST_ATTACK_EXAMPLES sets how many requests of each kind an operation gets."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi import checks

from tests.api.operations import LEAST_ROLE, STREAMS
from tests.api.two_tenants import Secrets, Tenant, TwoTenants
from tests.support.serving import serving

EXAMPLES = int(os.environ.get("EMBEDMILL_TEST_ATTACK_EXAMPLES", "5"))
SEED = int(os.environ.get("EMBEDMILL_TEST_ATTACK_SEED", "1"))
FAR = (
    "Traceback",
    "site-packages",
    "psycopg",
    "SELECT ",
    "INSERT INTO",
    "/tmp/",  # noqa: S108
    "/originals/",
    "sqlstate",
    "key_hmac",
)
# What takes away comes last: the rest shall find something.
_ORDER = ("GET", "PUT", "PATCH", "POST", "DELETE")
_OPERATIONS = sorted(set(LEAST_ROLE) - STREAMS, key=lambda label: (_ORDER.index(label.split()[0]), label))


class Attacked:
    """A service in a thread of its own, so that a client that blocks can ask it."""

    def __init__(self, two: TwoTenants) -> None:
        self.two = two
        self.secrets = Secrets(two)
        self.address = ""
        self.answers: Counter[tuple[str, int]] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None
        self._began: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> Attacked:
        self._thread.start()
        self._began.result(60)
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._loop is not None
        assert self._ended is not None
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        async with serving(
            self.two.url,
            self.two.folder,
            works=False,
            allowed_hosts="127.0.0.1",
            requests_per_minute=1_000_000,
        ) as one:
            self.address = one.address
            self._began.set_result(None)
            await self._ended.wait()


@pytest.fixture
def attacked(two: TwoTenants) -> Iterator[Attacked]:
    with Attacked(two) as one:
        yield one


def real_values(tenant: Tenant) -> dict[str, list[Any]]:
    """What stands for a parameter in the database, by its name."""
    jobs = [job["jobId"] for job in tenant.jobs.values()]
    return {
        "jobId": jobs,
        "batchId": [tenant.batch_id],
        "webhookId": [tenant.webhook_id],
        "deliveryId": [tenant.delivery_id],
        "keyId": tenant.key_ids,
        "id": [tenant.item_id],
        "alertId": [tenant.alert_id],
        "name": ["standin", "held"],
        "shardTypeId": [tenant.shard_type_id],
        "shardId": [tenant.shard_id],
    }


def test_requests_that_fit_the_description_and_others_are_answered_as_it_says(attacked: Attacked) -> None:
    schema = schemathesis.openapi.from_url(f"{attacked.address}/openapi.json")
    known = {}
    for result in schema.get_all_operations():
        operation = result.ok()
        known[f"{operation.method.upper()} {operation.path}"] = operation
    faults: dict[str, str] = {}
    for label in _OPERATIONS:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            fault = attack(attacked, known[label], mode)
            if fault is not None:
                faults[f"{label} ({mode.value})"] = fault
    assert not faults, "\n\n".join(f"{label}: {fault}" for label, fault in faults.items())
    # And it was an attack: each operation was asked, most were let in, much was refused.
    assert {label for label, _ in attacked.answers} == set(_OPERATIONS)
    succeeded = {label for label, status in attacked.answers if status < 300}
    assert len(succeeded) > len(_OPERATIONS) * 2 // 3, set(_OPERATIONS) - succeeded
    assert attacked.answers.total() > 1.25 * EXAMPLES * len(_OPERATIONS)


def attack(attacked: Attacked, operation: Any, mode: GenerationMode) -> str | None:
    """Requests of one operation; what was wrong with an answer, by its smallest request."""
    try:
        strategy = operation.as_strategy(generation_mode=mode)
    except schemathesis.errors.SchemathesisError:
        return None
    real = real_values(attacked.two.beta)
    chance = random.Random(SEED)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy, is_real=st.booleans())
    def one(case: Case, is_real: bool) -> None:
        if is_real and mode is GenerationMode.POSITIVE:
            for name in case.path_parameters or {}:
                case.path_parameters[name] = chance.choice(real[name])
        check(attacked, case, mode)

    try:
        one()
    except AssertionError as error:
        return str(error)[:1500]
    except BaseExceptionGroup as group:
        return "; ".join(str(each)[:1500] for each in group.exceptions)
    except Exception as error:  # noqa: BLE001 - a check of schemathesis, or Hypothesis found nothing to send
        if type(error).__name__ in {"Unsatisfiable", "Unsatisfied", "SkipTest"}:
            return None
        return f"{type(error).__name__}: {error}"[:1500]
    return None


def check(attacked: Attacked, case: Case, mode: GenerationMode) -> None:
    response = case.call(base_url=attacked.address, headers=attacked.two.beta.headers("admin"), timeout=30)
    attacked.answers[case.operation.label, response.status_code] += 1
    shown = f"{dict(response.headers)} {response.text}"
    assert response.status_code < 500, f"{case.as_curl_command()} gave {response.status_code} {response.text}"
    assert not [word for word in FAR if word in shown], f"{case.as_curl_command()} told {shown}"
    said = f"{response.request.url} {case.body!r} {case.headers!r}"
    assert attacked.secrets.in_text(shown, said=said) == [], f"{case.as_curl_command()} told {shown}"
    described = [
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
    ]
    if mode is GenerationMode.NEGATIVE:
        described.append(checks.negative_data_rejection)
    case.validate_response(response, checks=described)
