-- name: open
-- Open alerts of a tenant, and those of the installation where they are wanted: critical ones first, then the newest.
-- By the index alerts_open.
SELECT id, kind, tenant_id IS NULL, subject, severity, message, numbers::text, began_at, raised_at, seen_at, resolved_at,
       acknowledged_at, acknowledged_by, silenced_until
  FROM embedmill.alerts
 WHERE coalesce(tenant_id, 0) = ANY (%(owners)s::integer[]) AND resolved_at IS NULL
 ORDER BY severity = 'critical' DESC, id DESC LIMIT %(limit)s;

-- name: page
-- A page of alerts, open ones first, then those that were resolved, each newest first; from behind a position. By the
-- indexes alerts_open and alerts_ended.
SELECT * FROM (
    SELECT id, kind, tenant_id IS NULL, subject, severity, message, numbers::text, began_at, raised_at, seen_at, resolved_at,
           acknowledged_at, acknowledged_by, silenced_until
      FROM embedmill.alerts
     WHERE %(wants_open)s AND coalesce(tenant_id, 0) = ANY (%(owners)s::integer[]) AND resolved_at IS NULL
       AND NOT %(after_is_resolved)s AND (%(after_id)s::bigint IS NULL OR id < %(after_id)s)
     ORDER BY id DESC LIMIT %(limit)s) open
UNION ALL
SELECT * FROM (
    SELECT id, kind, tenant_id IS NULL, subject, severity, message, numbers::text, began_at, raised_at, seen_at, resolved_at,
           acknowledged_at, acknowledged_by, silenced_until
      FROM embedmill.alerts
     WHERE %(wants_resolved)s AND coalesce(tenant_id, 0) = ANY (%(owners)s::integer[]) AND resolved_at IS NOT NULL
       AND (NOT %(after_is_resolved)s OR id < %(after_id)s)
     ORDER BY id DESC LIMIT %(limit)s) resolved
LIMIT %(limit)s;

-- name: get
-- One of them.
SELECT id, kind, tenant_id IS NULL, subject, severity, message, numbers::text, began_at, raised_at, seen_at, resolved_at,
       acknowledged_at, acknowledged_by, silenced_until
  FROM embedmill.alerts WHERE id = %(id)s AND coalesce(tenant_id, 0) = ANY (%(owners)s::integer[]);

-- name: act_as
-- Who acts, for the audit log of this transaction.
SELECT set_config('embedmill.actor', %(actor)s, true);

-- name: acknowledge
-- Somebody has seen it; no row where it is resolved. The act goes into the audit log.
WITH acknowledged AS (
    UPDATE embedmill.alerts
       SET acknowledged_at = now(), acknowledged_by = %(actor)s,
           silenced_until = now() + make_interval(secs => %(seconds)s::double precision)
     WHERE id = %(id)s AND resolved_at IS NULL AND coalesce(tenant_id, 0) = ANY (%(owners)s::integer[])
    RETURNING *
)
SELECT a.id, a.kind, a.tenant_id IS NULL, a.subject, a.severity, a.message, a.numbers::text, a.began_at, a.raised_at,
       a.seen_at, a.resolved_at, a.acknowledged_at, a.acknowledged_by, a.silenced_until,
       embedmill.record_action(a.tenant_id, 'alert.acknowledge', a.id::text, NULL, jsonb_build_object(
           'kind', a.kind, 'subject', a.subject, 'silenced_until', a.silenced_until))
  FROM acknowledged a;

-- name: watch_unled
-- A look at what needs attention, where no worker leads.
SELECT embedmill.watch_alerts_unled();

-- name: tell
-- Tells the operator's tenant of the installation's alerts.
SELECT embedmill.tell_alerts(%(tenant_id)s);

-- name: report
-- What only this process can see.
SELECT embedmill.report_alert_sign(%(kind)s, %(subject)s, %(severity)s, %(message)s);
