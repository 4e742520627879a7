"""The metrics of /metrics, one by one: name, kind, labels, and what an operator reads into them. Owns these words only;
who measures them says so by `origin`. docs/reference/metrics.md is written from here."""

from __future__ import annotations

from enum import StrEnum

import msgspec

PREFIX = "embedmill_"

# Label sets of users' making (a provider, a model, a route) that one process names; the rest is summed as `other`.
MOST_OPEN_SETS = 50
# Tenants, pipelines, budgets and quotas that are named, the largest first; see fleet.sql.
MOST_NAMED = 20

OTHER = "other"


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Origin(StrEnum):
    """Who knows it: the processes of a machine each for itself, or the database for all machines."""

    PROCESSES = "processes"
    FLEET = "fleet"
    SCRAPE = "scrape"


class Metric(msgspec.Struct, frozen=True):
    """`name` as it is exposed, without `_bucket` and the like. `open_labels` are those of the labels whose values
    users make up. `buckets` are upper bounds, without infinity."""

    name: str
    kind: Kind
    help: str
    origin: Origin
    labels: tuple[str, ...] = ()
    open_labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """How many numbers a series of it is: for a histogram the sum, the counts of each bucket, and of infinity."""
        return len(self.buckets) + 2 if self.kind is Kind.HISTOGRAM else 1


_QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_CALL = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_LONG = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 120.0, 600.0)
_MODEL = ("provider", "model")
_PIPELINE = ("tenant", "pipeline")


def _counter(name: str, help_: str, *labels: str, open_labels: tuple[str, ...] = ()) -> Metric:
    return Metric(PREFIX + name, Kind.COUNTER, help_, Origin.PROCESSES, labels, open_labels)


def _histogram(
    name: str, help_: str, buckets: tuple[float, ...], *labels: str, open_labels: tuple[str, ...] = ()
) -> Metric:
    return Metric(PREFIX + name, Kind.HISTOGRAM, help_, Origin.PROCESSES, labels, open_labels, buckets)


def _fleet_gauge(name: str, help_: str, *labels: str) -> Metric:
    return Metric(PREFIX + name, Kind.GAUGE, help_, Origin.FLEET, labels)


def _fleet_counter(name: str, help_: str, *labels: str) -> Metric:
    return Metric(PREFIX + name, Kind.COUNTER, help_, Origin.FLEET, labels)


def _scrape(name: str, help_: str, *labels: str) -> Metric:
    return Metric(PREFIX + name, Kind.GAUGE, help_, Origin.SCRAPE, labels)


CLAIM_SECONDS = _histogram(
    "claim_duration_seconds", "How long a claim of items from the queue takes.", _QUICK
)
CLAIMED_ITEMS = _counter("claimed_items_total", "Items claimed from the queue, those claimed again included.")
RETURNED_ITEMS = _counter(
    "returned_items_total",
    "Items given back to the queue, by reason: `bad_response` and `provider_unavailable` are retries, `rate_limited`, "
    "`budget` and `stopped` cost no attempt.",
    "reason",
)
RESCUED_ITEMS = _counter("rescued_items_total", "Items freed from workers that died, froze or hung.")
CALL_SECONDS = _histogram(
    "provider_call_duration_seconds",
    "How long a call to the provider takes, whatever comes of it; time spent waiting for a quota is not in it.",
    _CALL,
    *_MODEL,
    open_labels=_MODEL,
)
CALLS = _counter(
    "provider_calls_total",
    "Calls to the provider by outcome: ok; rate_limited (HTTP 429, never a failed attempt); unavailable (timeouts, "
    "5xx, no connection); rejected (it refuses the input); refused (key, model, credit: a person must act); "
    "bad_response; cancelled.",
    *_MODEL,
    "purpose",
    "outcome",
    open_labels=_MODEL,
)
CALL_INPUTS = _counter(
    "provider_inputs_total", "Texts sent in calls that succeeded.", *_MODEL, open_labels=_MODEL
)
CALL_TOKENS = _counter(
    "provider_tokens_total",
    "Tokens that the provider counted in calls that succeeded; those that say nothing are not in it (see "
    "embedmill_usage_tokens_total for the ledger).",
    *_MODEL,
    open_labels=_MODEL,
)
WRITE_SECONDS = _histogram(
    "write_duration_seconds",
    "How long the transaction takes that writes what a call brought, a wait for the database included.",
    _QUICK,
)
WRITTEN_VECTORS = _counter("vectors_written_total", "Vectors written from what providers answered.")
REUSED_VECTORS = _counter(
    "vectors_reused_total", "Vectors copied from equal texts: nothing was paid for them."
)
PARSE_SECONDS = _histogram(
    "parse_duration_seconds", "How long a document takes to be fetched, read, cut and saved.", _LONG
)
PARSED_DOCUMENTS = _counter(
    "parsed_documents_total",
    "Documents that a parser was done with, by outcome: ok; failed (cannot be read: its job says why); returned "
    "(tried again: the store, the source or the database was away, or the worker stopped).",
    "outcome",
)
WEBHOOK_SECONDS = _histogram(
    "webhook_duration_seconds", "How long a webhook's endpoint takes to answer.", _CALL
)
WEBHOOK_CALLS = _counter(
    "webhook_calls_total",
    "Attempts to deliver to webhooks, by outcome: delivered; waiting (tried again later); failed (given up).",
    "outcome",
)
HTTP_REQUESTS = _counter(
    "http_requests_total",
    "Requests that the service answered, by route (as a template, never as an address) and status.",
    "method",
    "route",
    "status",
    open_labels=("route",),
)
HTTP_SECONDS = _histogram(
    "http_request_duration_seconds",
    "Until the answer began: the upload of a body is in it, the stream of an answer is not.",
    _QUICK,
    "method",
    "route",
    open_labels=("route",),
)

PROCESS_METRICS: tuple[Metric, ...] = (
    CLAIM_SECONDS,
    CLAIMED_ITEMS,
    RETURNED_ITEMS,
    RESCUED_ITEMS,
    CALL_SECONDS,
    CALLS,
    CALL_INPUTS,
    CALL_TOKENS,
    WRITE_SECONDS,
    WRITTEN_VECTORS,
    REUSED_VECTORS,
    PARSE_SECONDS,
    PARSED_DOCUMENTS,
    WEBHOOK_SECONDS,
    WEBHOOK_CALLS,
    HTTP_REQUESTS,
    HTTP_SECONDS,
)

FLEET_METRICS: tuple[Metric, ...] = (
    _fleet_gauge("queue_enabled", "1 while the queue is on, 0 where somebody has switched it off."),
    _fleet_gauge("pipelines_paused", "Pipelines that somebody has paused."),
    _fleet_gauge(
        "queue_items",
        "Live items by tenant and status: pending (also those that wait for a parser, a reader or a budget), "
        "rate_limited (counted up to 10,000 of a pipeline and priority), processing. The tenants with the most are "
        "named, the rest is `other`.",
        "tenant",
        "status",
    ),
    _fleet_gauge(
        "queue_oldest_waiting_seconds",
        "For how long the oldest item waits that could be claimed now, by priority; 0 where none does. Paused "
        "pipelines are left out, and everything while the queue is off.",
        "priority",
    ),
    _fleet_counter(
        "items_ended_total", "Items that ended, by status: completed, failed, cancelled.", "status"
    ),
    _fleet_gauge(
        "dead_letters",
        "Dead letters that wait for a person, by reason; 10,000 are counted at the most.",
        "reason",
    ),
    _fleet_counter(
        "usage_calls_total",
        "Calls in the usage ledger, failed ones included. Labels that are not among the first 300 sets are `other`.",
        *_PIPELINE,
        "usage_type",
        *_MODEL,
    ),
    _fleet_counter(
        "usage_failed_calls_total",
        "Calls in the usage ledger that brought nothing.",
        *_PIPELINE,
        "usage_type",
        *_MODEL,
    ),
    _fleet_counter("usage_tokens_total", "Tokens in the usage ledger.", *_PIPELINE, "usage_type", *_MODEL),
    _fleet_counter(
        "usage_cost_usd_total",
        "US dollars in the usage ledger; calls whose price is not known are not in it.",
        *_PIPELINE,
        "usage_type",
        *_MODEL,
    ),
    _fleet_counter(
        "usage_unpriced_calls_total",
        "Calls in the usage ledger whose price is not known: what they cost is in no sum.",
        *_PIPELINE,
        "usage_type",
        *_MODEL,
    ),
    _fleet_gauge(
        "chunks",
        "Chunks of the generation that is searched, by state: embedded, missing, unembeddable (refused or "
        "unreadable). The largest pipelines are named, the rest is `other`.",
        *_PIPELINE,
        "state",
    ),
    _fleet_gauge(
        "coverage_ratio",
        "Embedded over embeddable chunks, 0 to 1, of the generation that is searched; 1 where there are none.",
        *_PIPELINE,
    ),
    _fleet_gauge(
        "sources", "Sources of records (tables, shard feeds) by state: ok, paused, trouble.", "state"
    ),
    _fleet_gauge(
        "sources_oldest_change_seconds",
        "For how long the oldest noted change of a record waits to be read: how stale sources are at the worst. "
        "Paused sources are left out.",
    ),
    _fleet_gauge(
        "parse_jobs", "Uploads that wait for a parser, or have one; 10,000 are counted at the most.", "state"
    ),
    _fleet_gauge("parse_oldest_waiting_seconds", "For how long the oldest upload waits for a parser."),
    _fleet_gauge(
        "workers",
        "Worker processes by state: active, idle (alive, nothing to do), lost (said to be alive, and its heartbeat is "
        "older than two of its intervals; for an hour).",
        "state",
    ),
    _fleet_gauge("workers_draining", "Workers that were asked to stop and still finish what they hold."),
    _fleet_gauge(
        "worker_heartbeat_age_seconds", "The age of the oldest heartbeat among workers that are alive."
    ),
    _fleet_gauge(
        "worker_troubled_pipelines",
        "Pipelines that some worker leaves alone for now: the provider refuses, limits or is away.",
    ),
    _fleet_gauge(
        "sweeps_age_seconds",
        "How long ago the leader last folded the counts; it does so every two seconds. Grows where no worker leads.",
    ),
    _fleet_gauge(
        "quota_used_ratio",
        "What of the shared quota the last minute has used, 0 to 1, by quota key and resource (calls, tokens). The "
        "fullest are named.",
        "quota_key",
        "resource",
    ),
    _fleet_gauge(
        "quotas_exhausted", "Quotas that hold calls back now: used up, or the provider asked to wait."
    ),
    _fleet_gauge(
        "budget_limit_usd", "The budget of a tenant. Those nearest to their limit are named.", "tenant"
    ),
    _fleet_gauge("budget_spent_usd", "What of it is spent, in its month or in all.", "tenant"),
    _fleet_gauge(
        "budgets_reached", "Budgets, of tenants and of jobs, that leave no room: what they hold waits."
    ),
    _fleet_gauge(
        "webhooks", "Webhooks by state: ok, failing (its last delivery was given up), disabled.", "state"
    ),
    _fleet_gauge(
        "webhook_deliveries_pending",
        "Deliveries that wait or are tried again; 10,000 are counted at the most.",
    ),
    _fleet_gauge("webhook_oldest_due_seconds", "For how long the oldest delivery is overdue."),
    _fleet_gauge(
        "database_oldest_xmin_transactions",
        "How many transactions ago the oldest snapshot was taken that keeps dead rows from being removed: sessions, "
        "prepared transactions, replication slots. The role needs pg_read_all_stats to see those of others.",
    ),
    _fleet_gauge(
        "database_oldest_transaction_seconds",
        "For how long the oldest transaction is open, of any session that is seen.",
    ),
    _fleet_gauge("database_connections", "Connections to this server, of everybody."),
    _fleet_gauge("database_max_connections", "Connections that this server allows."),
    _fleet_gauge(
        "database_queue_bytes",
        "The size of the table of live items with its indexes: it grows where dead rows are kept.",
    ),
    _fleet_gauge(
        "database_queue_dead_rows", "Dead rows in the table of live items, as the server estimates them."
    ),
    _fleet_gauge(
        "database_xid_age_transactions",
        "The age of the oldest row version of this database; the server stops writes at two thousand million.",
    ),
)

SCRAPE_METRICS: tuple[Metric, ...] = (
    _scrape("build_info", "Always 1; the version of the service.", "version"),
    _scrape(
        "database_up",
        "1 where the database answered this scrape; 0: what is the whole fleet's is missing from it.",
    ),
    _scrape("fleet_read_seconds", "How long the last reading of the database for this page took."),
    _scrape("processes", "Processes of this machine whose figures are in this page, this one included."),
)

ALL_METRICS: tuple[Metric, ...] = (*PROCESS_METRICS, *FLEET_METRICS, *SCRAPE_METRICS)
BY_NAME: dict[str, Metric] = {metric.name: metric for metric in ALL_METRICS}
