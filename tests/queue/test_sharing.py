"""Quotas and tenants as people see and change them; which limits a new pipeline gets."""

from __future__ import annotations

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.errors import ConfigurationError, NotFoundError
from embedmill.ports import ProviderSpec
from embedmill.queue.administration import read_audit_log
from embedmill.queue.quotas import cool_down, grant_quota
from embedmill.queue.sharing import (
    Limit,
    OwnLimits,
    create_tenant,
    limits_of_new_pipeline,
    list_quotas,
    list_tenants,
    set_quota,
    set_tenant,
)

OPENAI = ProviderSpec(provider="openai", model="m", dimensions=8)
PROXY = ProviderSpec(provider="openai", model="m", dimensions=8, base_url="http://127.0.0.1:1/v1")
LOCAL = ProviderSpec(provider="local", model="m", dimensions=8)
DEFAULTS, UNLIMITED = OwnLimits(None, None, uses_defaults=True), OwnLimits(None, None, uses_defaults=False)


@pytest.mark.parametrize(
    ("spec", "calls", "tokens", "expected"),
    [
        (OPENAI, None, None, DEFAULTS),
        (PROXY, None, None, UNLIMITED),
        (LOCAL, None, None, UNLIMITED),
        (OPENAI, "unlimited", None, UNLIMITED),
        (OPENAI, 600, None, OwnLimits(600, None, uses_defaults=False)),
        (OPENAI, 600, "default", OwnLimits(600, None, uses_defaults=True)),
        (PROXY, "default", None, DEFAULTS),
        (LOCAL, 5, 7, OwnLimits(5, 7, uses_defaults=False)),
    ],
)
def test_a_new_pipeline_gets_the_limits_that_it_should(
    spec: ProviderSpec, calls: Limit | None, tokens: Limit | None, expected: OwnLimits
) -> None:
    assert limits_of_new_pipeline(spec, calls, tokens) == expected


async def test_a_quota_is_changed_for_all_who_share_it_and_the_log_says_so(
    app: App, pipeline: Pipeline
) -> None:
    tenant, key = await app.tenant_id(), pipeline.quota_key
    changed = await set_quota(app.database, tenant, key, calls=2, tokens=None, actor="ann@mill")
    assert (changed.calls_per_minute, changed.tokens_per_minute, changed.pipelines) == (2, None, ["standin"])
    assert await grant_quota(app.database, key, 10) == 0
    used = next(one for one in await list_quotas(app.database, tenant) if one.quota_key == key)
    assert (used.calls_used, used.tokens_used) == (1, 10)
    with pytest.raises(ConfigurationError, match="give the second one a number"):
        await set_quota(app.database, tenant, key, calls="default", tokens=None, actor="ann")
    both = await set_quota(app.database, tenant, key, calls="default", tokens="default", actor="ann")
    assert (both.calls_per_minute, both.tokens_per_minute, both.uses_defaults) == (60, 100_000, True)
    with pytest.raises(NotFoundError, match="there are: default/default, default/standin"):
        await set_quota(app.database, tenant, "nobody", calls=1, tokens=None, actor="ann")
    acts = await read_audit_log(app.database, tenant, limit=9)
    assert [(act.action, act.subject) for act in acts] == [("quota.set", key)] * 2
    await cool_down(app.database, key, 60.0, "answered 429")
    cooling = next(one for one in await list_quotas(app.database, tenant) if one.quota_key == key)
    assert cooling.binds
    assert cooling.cooldown_reason == "answered 429"


async def test_tenants_are_made_listed_and_changed(app: App) -> None:
    made = await create_tenant(app.database, "acme", weight=2.5, max_processing_items=None, actor="ann")
    assert (made.weight, made.max_processing_items, made.pipelines) == (2.5, None, 0)
    capped = await set_tenant(app.database, "acme", weight=None, max_processing_items=7, actor="ann")
    assert (capped.weight, capped.max_processing_items) == (2.5, 7)
    free = await set_tenant(app.database, "acme", weight=0.5, max_processing_items="none", actor="ann")
    assert (free.weight, free.max_processing_items) == (0.5, None)
    assert [one.slug for one in await list_tenants(app.database)] == ["acme", "default"]
    for slug, said in (("acme", "exists already"), ("Acme Corp", "cannot name a tenant")):
        with pytest.raises(ConfigurationError, match=said):
            await create_tenant(app.database, slug, weight=1, max_processing_items=None, actor="ann")
    with pytest.raises(NotFoundError, match="there are: acme, default"):
        await set_tenant(app.database, "nobody", weight=1, max_processing_items=None, actor="ann")
    acts = await read_audit_log(app.database, await app.tenant_id(), limit=9)
    assert [act.action for act in acts] == ["tenant.set", "tenant.set", "tenant.create"]
