"""What is shared and by whom: quotas of calls and tokens, and the tenants' parts of the workers. Owns how people
look at them and change them; granting is quotas.py's."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import psycopg

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError, NotFoundError
from embedmill.ports import ProviderSpec
from embedmill.queue.acting import record_action

_SQL = load_queries("embedmill.queue", "sharing.sql")
_LONGEST_KEY = 200

Limit = int | Literal["unlimited", "default"]
"""A limit a minute as a person says it: a number, none, or the configuration's."""


class Quota(msgspec.Struct, frozen=True):
    """A quota key: `own_*` are its own limits, `*_per_minute` those that hold (None: unlimited), `*_used` what was
    granted within the last minute. `binds`: work waits for it. `pipelines` of other tenants read tenant/name."""

    quota_key: str
    own_calls_per_minute: int | None
    own_tokens_per_minute: int | None
    uses_defaults: bool
    calls_per_minute: int | None
    tokens_per_minute: int | None
    calls_used: int
    tokens_used: int
    cooling_seconds: float
    cooldown_reason: str | None
    binds: bool
    pipelines: list[str]


class Tenant(msgspec.Struct, frozen=True):
    """A tenant: its `weight` in what is contended, and the most items it may have in work (None: no cap)."""

    slug: str
    weight: float
    max_processing_items: int | None
    pipelines: int
    items_waiting: int
    items_in_work: int


class OwnLimits(msgspec.Struct, frozen=True):
    """A key's limits as they are stored: None is the configuration's where `uses_defaults`, else unlimited."""

    calls_per_minute: int | None
    tokens_per_minute: int | None
    uses_defaults: bool


def own_limits(calls: Limit, tokens: Limit) -> OwnLimits:
    """How two limits are stored. Raises ConfigurationError for the one pair that cannot be."""
    if {calls, tokens} >= {"default", "unlimited"}:
        raise ConfigurationError(
            "one limit of a quota cannot be default while the other is unlimited: give the second one a number"
        )
    return OwnLimits(
        calls if isinstance(calls, int) else None,
        tokens if isinstance(tokens, int) else None,
        uses_defaults="default" in (calls, tokens),
    )


def limits_of_new_pipeline(spec: ProviderSpec, calls: Limit | None, tokens: Limit | None) -> OwnLimits:
    """The limits of a quota that comes with a pipeline. Where a person says none (None, None), the configuration's
    hold for OpenAI itself; one's own servers, proxies and local models are not limited unless asked."""
    if calls is None and tokens is None:
        unsaid: Limit = "default" if spec.provider == "openai" and spec.base_url is None else "unlimited"
    else:
        unsaid = "default" if "default" in (calls, tokens) else "unlimited"
    return own_limits(unsaid if calls is None else calls, unsaid if tokens is None else tokens)


async def check_shared_key(database: Database, quota_key: str, *, with_limits: bool) -> None:
    """Whether a new pipeline may take this key. Raises ConfigurationError for one that is no name, and for limits
    that would change those of the pipelines that share it already."""
    if not quota_key.strip() or not quota_key.isprintable() or len(quota_key) > _LONGEST_KEY:
        raise ConfigurationError(
            f"{quota_key!r} cannot be a quota key: it is a name of up to {_LONGEST_KEY} characters, such as openai"
        )
    found = await database.fetch_one(_SQL["has_quota"], {"quota_key": quota_key})
    if found and with_limits:
        raise ConfigurationError(
            f"quota key {quota_key!r} has its limits already: leave them out here, "
            f"or change them for all who share it with `embedmill quota set {quota_key}`"
        )


async def list_quotas(database: Database, tenant_id: int) -> list[Quota]:
    """Every quota key, as the tenant sees it."""
    rows = await database.fetch(_SQL["list_quotas"], {"tenant_id": tenant_id, "quota_key": None})
    return [Quota(*row) for row in rows]


async def set_quota(
    database: Database,
    tenant_id: int,
    quota_key: str,
    *,
    calls: Limit | None,
    tokens: Limit | None,
    actor: str,
) -> Quota:
    """Change the limits of a key (None: leave it), for all who share it. Raises NotFoundError, ConfigurationError."""
    async with database.transaction() as connection:
        cursor = await connection.execute(_SQL["lock_quota"], {"quota_key": quota_key})
        row = await cursor.fetchone()
        if row is None:
            keys = ", ".join(quota.quota_key for quota in await list_quotas(database, tenant_id))
            raise NotFoundError(f"there is no quota key {quota_key!r}; there are: {keys}")
        old = OwnLimits(*row)
        new = own_limits(
            _said(old.calls_per_minute, old) if calls is None else calls,
            _said(old.tokens_per_minute, old) if tokens is None else tokens,
        )
        if new != old:
            await connection.execute(
                _SQL["set_quota"], {"quota_key": quota_key, **msgspec.structs.asdict(new)}
            )
            await record_action(
                connection,
                None,
                actor=actor,
                action="quota.set",
                subject=quota_key,
                old_value=_json(old),
                new_value=_json(new),
            )
    (found,) = await database.fetch(_SQL["list_quotas"], {"tenant_id": tenant_id, "quota_key": quota_key})
    return Quota(*found)


async def list_tenants(database: Database) -> list[Tenant]:
    return [Tenant(*row) for row in await database.fetch(_SQL["list_tenants"], {"slug": None})]


async def create_tenant(
    database: Database, slug: str, *, weight: float, max_processing_items: int | None, actor: str
) -> Tenant:
    """Make a tenant; ConfigurationError where its name is taken or cannot be one."""
    given = {"slug": slug, "weight": weight, "max_processing_items": max_processing_items}
    try:
        async with database.transaction() as connection:
            row = await (await connection.execute(_SQL["create_tenant"], given)).fetchone()
            if row is None:
                raise ConfigurationError(
                    f"a tenant {slug!r} exists already: `embedmill tenant set` changes what it may"
                )
            await record_action(
                connection,
                None,
                actor=actor,
                action="tenant.create",
                subject=slug,
                old_value=None,
                new_value=_json({"weight": weight, "max_processing_items": max_processing_items}),
            )
    except psycopg.errors.CheckViolation as error:
        raise ConfigurationError(
            f"{slug!r} cannot name a tenant: small letters, digits, - and _, no sign first, 63 characters at most"
        ) from error
    return await _tenant(database, slug)


async def set_tenant(
    database: Database,
    slug: str,
    *,
    weight: float | None,
    max_processing_items: int | Literal["none"] | None,
    actor: str,
) -> Tenant:
    """Change what a tenant may (None: leave it). Raises NotFoundError."""
    async with database.transaction() as connection:
        row = await (await connection.execute(_SQL["lock_tenant"], {"slug": slug})).fetchone()
        if row is None:
            names = ", ".join(tenant.slug for tenant in await list_tenants(database))
            raise NotFoundError(f"there is no tenant {slug!r}; there are: {names}")
        old = {"weight": row[1], "max_processing_items": row[2]}
        cap = row[2] if max_processing_items is None else max_processing_items
        new = {
            "weight": row[1] if weight is None else weight,
            "max_processing_items": None if cap == "none" else cap,
        }
        if new != old:
            await connection.execute(_SQL["set_tenant"], {"slug": slug, **new})
            await record_action(
                connection,
                None,
                actor=actor,
                action="tenant.set",
                subject=slug,
                old_value=_json(old),
                new_value=_json(new),
            )
    return await _tenant(database, slug)


async def _tenant(database: Database, slug: str) -> Tenant:
    (row,) = await database.fetch(_SQL["list_tenants"], {"slug": slug})
    return Tenant(*row)


def _said(limit: int | None, old: OwnLimits) -> Limit:
    """A stored limit as a person would say it."""
    if limit is not None:
        return limit
    return "default" if old.uses_defaults else "unlimited"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
