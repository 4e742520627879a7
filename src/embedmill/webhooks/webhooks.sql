-- name: act_as
-- Who acts, for the audit log of this transaction.
SELECT set_config('embedmill.actor', %(actor)s, true);

-- name: record_action
-- One act, with what it was aimed at.
SELECT embedmill.record_action(%(tenant_id)s, %(action)s, %(subject)s, %(old_value)s::jsonb, %(new_value)s::jsonb);

-- name: create
-- A new webhook; no row where the tenant has as many as it may have.
INSERT INTO embedmill.webhooks (tenant_id, url, event_types, description)
SELECT %(tenant_id)s, %(url)s, %(event_types)s, %(description)s
 WHERE (SELECT count(*) FROM embedmill.webhooks WHERE tenant_id = %(tenant_id)s) < %(max_webhooks)s
RETURNING id, url, event_types, description, is_active, disabled_reason, failures, secret_version, created_at;

-- name: list
-- All of a tenant, oldest first.
SELECT id, url, event_types, description, is_active, disabled_reason, failures, secret_version, created_at
  FROM embedmill.webhooks WHERE tenant_id = %(tenant_id)s ORDER BY created_at, id;

-- name: get
-- One of them.
SELECT id, url, event_types, description, is_active, disabled_reason, failures, secret_version, created_at
  FROM embedmill.webhooks WHERE tenant_id = %(tenant_id)s AND id = %(webhook_id)s;

-- name: lock
-- The webhook before its deliveries, everywhere. Events that are being written refer to it and are not held up.
SELECT id, url, event_types, description, is_active, disabled_reason, failures, secret_version, created_at
  FROM embedmill.webhooks WHERE tenant_id = %(tenant_id)s AND id = %(webhook_id)s FOR NO KEY UPDATE;

-- name: update
-- What a person sets. One that is switched on again begins anew; one that a person switches off needs no reason.
UPDATE embedmill.webhooks
   SET url = %(url)s, event_types = %(event_types)s, description = %(description)s, is_active = %(is_active)s,
       disabled_reason = CASE WHEN is_active = %(is_active)s THEN disabled_reason END,
       failures = CASE WHEN %(is_active)s AND NOT is_active THEN 0 ELSE failures END
 WHERE tenant_id = %(tenant_id)s AND id = %(webhook_id)s
RETURNING id, url, event_types, description, is_active, disabled_reason, failures, secret_version, created_at;

-- name: rotate
-- The next secret; the one before signs as well.
UPDATE embedmill.webhooks SET secret_version = secret_version + 1
 WHERE tenant_id = %(tenant_id)s AND id = %(webhook_id)s
RETURNING id, url, event_types, description, is_active, disabled_reason, failures, secret_version, created_at;

-- name: delete
-- With its deliveries.
DELETE FROM embedmill.webhooks WHERE tenant_id = %(tenant_id)s AND id = %(webhook_id)s RETURNING url;

-- name: claim
-- Due deliveries, each with its attempt counted and out of everybody's sight until the lease ends. Of each webhook at
-- most `slots_each`, or what `slots` says of it, so that a backlog of one keeps no other waiting; the longest due
-- first. Candidates are found without locks, by the index of due ones; whoever was there first has them.
WITH slots AS (
    SELECT webhook_id, free FROM unnest(%(webhook_ids)s::uuid[], %(slots)s::integer[]) AS s(webhook_id, free)
), candidates AS MATERIALIZED (
    SELECT c.id FROM embedmill.webhooks w
     CROSS JOIN LATERAL (
        SELECT d.id, d.next_attempt_at FROM embedmill.webhook_deliveries d
         WHERE d.webhook_id = w.id AND d.status = 'pending' AND d.next_attempt_at <= now()
         ORDER BY d.next_attempt_at
         LIMIT coalesce((SELECT s.free FROM slots s WHERE s.webhook_id = w.id), %(slots_each)s::integer)) c
     WHERE w.is_active
     ORDER BY c.next_attempt_at LIMIT %(limit)s
), locked AS MATERIALIZED (
    SELECT d.id FROM embedmill.webhook_deliveries d
     WHERE d.id IN (SELECT id FROM candidates) AND d.status = 'pending' AND d.next_attempt_at <= now()
       FOR UPDATE SKIP LOCKED
)
UPDATE embedmill.webhook_deliveries d
   SET attempts = d.attempts + 1, next_attempt_at = now() + make_interval(secs => %(lease_seconds)s)
  FROM embedmill.webhooks w
 WHERE d.id IN (SELECT id FROM locked) AND w.id = d.webhook_id
RETURNING d.id, d.tenant_id, d.webhook_id, d.event_type, d.payload::text, d.attempts, w.url, w.secret_version;

-- name: claim_test
-- A test call, claimed as it is written: the one who asked for it sends it.
INSERT INTO embedmill.webhook_deliveries (tenant_id, webhook_id, event_type, payload, attempts, next_attempt_at)
SELECT w.tenant_id, w.id, 'test',
       jsonb_build_object(
           'type', 'test',
           'timestamp', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
           'data', jsonb_build_object('webhookId', w.id, 'message', 'A test call of this webhook.')),
       1, now() + make_interval(secs => %(lease_seconds)s)
  FROM embedmill.webhooks w WHERE w.tenant_id = %(tenant_id)s AND w.id = %(webhook_id)s
RETURNING id, tenant_id, webhook_id, event_type, payload::text, attempts,
          (SELECT url FROM embedmill.webhooks w WHERE w.id = webhook_id),
          (SELECT secret_version FROM embedmill.webhooks w WHERE w.id = webhook_id);

-- name: clear_failures
-- Something was delivered: the row of failures is broken.
UPDATE embedmill.webhooks SET failures = 0 WHERE id = %(webhook_id)s AND failures > 0;

-- name: mark_delivered
-- It was delivered, whichever attempt did it and whatever was thought of it since.
UPDATE embedmill.webhook_deliveries
   SET status = 'delivered', ended_at = now(), response_status = %(response_status)s, error = NULL
 WHERE id = %(id)s AND status <> 'delivered';

-- name: mark_waiting
-- To be tried again, unless another attempt has begun since, or somebody has ended it.
UPDATE embedmill.webhook_deliveries
   SET next_attempt_at = now() + make_interval(secs => %(delay_seconds)s), response_status = %(response_status)s,
       error = %(error)s
 WHERE id = %(id)s AND status = 'pending' AND attempts = %(attempt)s;

-- name: mark_failed
-- Given up, under the same condition.
UPDATE embedmill.webhook_deliveries
   SET status = 'failed', ended_at = now(), response_status = %(response_status)s, error = %(error)s
 WHERE id = %(id)s AND status = 'pending' AND attempts = %(attempt)s
RETURNING id;

-- name: count_failure
-- One more in a row that was given up.
UPDATE embedmill.webhooks SET failures = failures + 1 WHERE id = %(webhook_id)s RETURNING failures;

-- name: disable
-- Switched off by the service.
UPDATE embedmill.webhooks SET is_active = false, disabled_reason = %(reason)s
 WHERE id = %(webhook_id)s AND is_active RETURNING id;

-- name: end_waiting
-- What waits for a webhook that is switched off; a test call is nobody's but its sender's.
UPDATE embedmill.webhook_deliveries SET status = 'failed', ended_at = now(), error = %(error)s
 WHERE webhook_id = %(webhook_id)s AND status = 'pending' AND event_type <> 'test';

-- name: end_stranded
-- What was written for a webhook while it was switched off, and test calls whose sender died. What somebody else has
-- locked can wait for the next look.
UPDATE embedmill.webhook_deliveries SET status = 'failed', ended_at = now(), error = %(error)s
 WHERE id IN (SELECT d.id FROM embedmill.webhooks w JOIN embedmill.webhook_deliveries d ON d.webhook_id = w.id
               WHERE NOT w.is_active AND d.status = 'pending' AND d.next_attempt_at <= now()
                 FOR UPDATE OF d SKIP LOCKED);

-- name: list_deliveries
-- A page of the log, newest first.
SELECT id, webhook_id, event_id, event_type, payload::text, status, attempts,
       CASE WHEN status = 'pending' THEN next_attempt_at END, response_status, error, created_at, ended_at
  FROM embedmill.webhook_deliveries
 WHERE webhook_id = %(webhook_id)s AND tenant_id = %(tenant_id)s
   AND (%(statuses)s::text[] IS NULL OR status = ANY (%(statuses)s))
   AND (%(before_at)s::timestamptz IS NULL OR (created_at, id) < (%(before_at)s, %(before_id)s::uuid))
 ORDER BY created_at DESC, id DESC LIMIT %(limit)s;

-- name: get_delivery
-- One of them.
SELECT id, webhook_id, event_id, event_type, payload::text, status, attempts,
       CASE WHEN status = 'pending' THEN next_attempt_at END, response_status, error, created_at, ended_at
  FROM embedmill.webhook_deliveries WHERE id = %(id)s AND tenant_id = %(tenant_id)s;

-- name: redeliver
-- Sent again under the same id, with all attempts before it. No row where it is gone or still under way.
UPDATE embedmill.webhook_deliveries
   SET status = 'pending', attempts = 0, next_attempt_at = now(), ended_at = NULL, error = NULL, response_status = NULL
 WHERE id = %(id)s AND tenant_id = %(tenant_id)s AND status <> 'pending' AND event_type <> 'test'
RETURNING id;

-- name: redeliver_failed
-- The same for all of a webhook that were given up since.
UPDATE embedmill.webhook_deliveries
   SET status = 'pending', attempts = 0, next_attempt_at = now(), ended_at = NULL, error = NULL, response_status = NULL
 WHERE webhook_id = %(webhook_id)s AND tenant_id = %(tenant_id)s AND status = 'failed' AND event_type <> 'test'
   AND created_at >= %(since)s
RETURNING id;

-- name: delete_old
-- Deliveries that ended and are older than this; a bounded number, so that no transaction is long.
DELETE FROM embedmill.webhook_deliveries
 WHERE id IN (SELECT id FROM embedmill.webhook_deliveries
               WHERE created_at < now() - make_interval(days => %(days)s) AND status <> 'pending'
               ORDER BY created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING id;
