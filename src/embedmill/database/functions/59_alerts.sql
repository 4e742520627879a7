-- Alerts: what is so (57, 58) for long enough is raised, what is no longer so for a while is resolved, and both are told
-- to streams and webhooks. Looked at by the leader every fifteen seconds; where no worker leads, by the service, so that
-- it is told as well that there is no worker.
--
-- Those of tenants are told in the transaction that raises them. Those of the installation belong to no tenant, and no
-- tenant sees their rows; they are told by the service, which knows whose tenant the operator's is (EMBEDMILL_TENANT):
-- to the webhooks and streams of that one. They name no other tenant, nor anything of one.

-- Notes how it is, once in five minutes, and forgets what is older than a day.
CREATE OR REPLACE FUNCTION embedmill.take_samples(p_now timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM embedmill.queue_samples WHERE sampled_at > p_now - interval '5 minutes') THEN
        RETURN;
    END IF;
    INSERT INTO embedmill.queue_samples (generation_id, sampled_at, tenant_id, day, completed, failed)
    SELECT g.id, p_now, g.tenant_id, (p_now AT TIME ZONE 'UTC')::date,
           coalesce(sum(k.items) FILTER (WHERE k.status = 'completed'), 0),
           coalesce(sum(k.items) FILTER (WHERE k.status = 'failed'), 0)
      FROM embedmill.generations g
      LEFT JOIN embedmill.queue_counts k
        ON k.generation_id = g.id AND k.status IN ('completed', 'failed') AND k.day = (p_now AT TIME ZONE 'UTC')::date
     GROUP BY g.id;
    INSERT INTO embedmill.coverage_samples
        (generation_id, record_source_id, sampled_at, tenant_id, chunks, embedded, unembeddable)
    SELECT c.generation_id, c.record_source_id, p_now, g.tenant_id, c.chunks, c.embedded, c.unembeddable
      FROM embedmill.coverage_counters c JOIN embedmill.generations g ON g.id = c.generation_id
     WHERE c.chunks > 0;
    DELETE FROM embedmill.queue_samples WHERE sampled_at < p_now - interval '1 day';
    DELETE FROM embedmill.coverage_samples WHERE sampled_at < p_now - interval '1 day';
END
$$;

-- For how long a sign must have been there before it is an alert.
CREATE OR REPLACE FUNCTION embedmill.alert_patience(p_kind text) RETURNS interval
LANGUAGE sql STABLE AS $$
    SELECT make_interval(secs => CASE
        WHEN p_kind IN ('budget_reached', 'budget_near', 'audit_findings') THEN 0
        WHEN p_kind = 'quota_exhausted' THEN embedmill.config_integer('alert_quota_seconds')
        WHEN p_kind = 'coverage_falling' THEN greatest(embedmill.config_integer('alert_after_seconds'), 900)
        ELSE embedmill.config_integer('alert_after_seconds') END)
$$;

-- What only a process can see (a disk that cannot be written): to be said again at least every thirty seconds for as
-- long as it is so.
CREATE OR REPLACE FUNCTION embedmill.report_alert_sign(
    p_kind text, p_subject text, p_severity text, p_message text, p_now timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE sql AS $$
    INSERT INTO embedmill.alert_signs AS s (kind, subject, severity, message, numbers, began_at, seen_at, is_reported)
    VALUES (p_kind, p_subject, p_severity, p_message, '{}', p_now, p_now, true)
    ON CONFLICT (coalesce(tenant_id, 0), kind, subject) DO UPDATE
       SET severity = excluded.severity, message = excluded.message, seen_at = greatest(s.seen_at, excluded.seen_at)
$$;

-- One look: notes the signs of now, raises, resolves, and tells tenants of it. One looks at a time. Returns what was
-- done. p_now is for tests: the database's clock otherwise.
CREATE OR REPLACE FUNCTION embedmill.watch_alerts(p_now timestamptz DEFAULT clock_timestamp()) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_clear interval := make_interval(secs => embedmill.config_integer('alert_clear_seconds'));
    v_raised integer;
    v_resolved integer;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('embedmill.watch_alerts')) THEN
        RETURN 'somebody else looks';
    END IF;
    PERFORM embedmill.take_samples(p_now);

    -- What was seen last before a long time in which nobody looked begins anew.
    DELETE FROM embedmill.alert_signs s
     WHERE s.seen_at < p_now - CASE WHEN s.is_reported THEN greatest(v_clear, interval '1 minute') ELSE v_clear END
       AND s.seen_at < p_now - interval '1 minute';
    INSERT INTO embedmill.alert_signs AS s (kind, tenant_id, subject, severity, message, numbers, began_at, seen_at)
    SELECT n.kind, n.tenant_id, n.subject, min(n.severity), min(n.message), (array_agg(n.numbers))[1],
           least(min(n.since), p_now), p_now
      FROM (SELECT * FROM embedmill.installation_signs(p_now)
             UNION ALL SELECT * FROM embedmill.pipeline_signs(p_now)
             UNION ALL SELECT * FROM embedmill.tenant_signs(p_now)
             UNION ALL SELECT * FROM embedmill.coverage_signs(p_now)) n
     GROUP BY n.kind, n.tenant_id, n.subject
    ON CONFLICT (coalesce(tenant_id, 0), kind, subject) DO UPDATE
       SET severity = excluded.severity, message = excluded.message, numbers = excluded.numbers,
           seen_at = excluded.seen_at, began_at = least(s.began_at, excluded.began_at);
    DELETE FROM embedmill.alert_signs s WHERE NOT s.is_reported AND s.seen_at <= p_now - v_clear AND s.seen_at < p_now;

    UPDATE embedmill.alerts a
       SET resolved_at = p_now, is_end_told = a.told_severity IS NULL
     WHERE a.resolved_at IS NULL
       AND NOT EXISTS (SELECT FROM embedmill.alert_signs s
                        WHERE coalesce(s.tenant_id, 0) = coalesce(a.tenant_id, 0) AND s.kind = a.kind
                          AND s.subject = a.subject);
    GET DIAGNOSTICS v_resolved = ROW_COUNT;
    UPDATE embedmill.alerts a
       SET severity = s.severity, message = embedmill.dated(s.message, s.began_at), numbers = s.numbers,
           seen_at = s.seen_at, began_at = least(a.began_at, s.began_at)
      FROM embedmill.alert_signs s
     WHERE coalesce(s.tenant_id, 0) = coalesce(a.tenant_id, 0) AND s.kind = a.kind AND s.subject = a.subject
       AND a.resolved_at IS NULL AND a.seen_at < s.seen_at;
    -- Silence outlives the alert for which it was asked: what comes back within it is not told.
    INSERT INTO embedmill.alerts
        (kind, tenant_id, subject, severity, message, numbers, began_at, raised_at, seen_at, acknowledged_at,
         acknowledged_by, silenced_until)
    SELECT s.kind, s.tenant_id, s.subject, s.severity, embedmill.dated(s.message, s.began_at), s.numbers, s.began_at, p_now,
           s.seen_at, b.acknowledged_at, b.acknowledged_by, b.silenced_until
      FROM embedmill.alert_signs s
      LEFT JOIN LATERAL (
        SELECT a.acknowledged_at, a.acknowledged_by, a.silenced_until FROM embedmill.alerts a
         WHERE coalesce(a.tenant_id, 0) = coalesce(s.tenant_id, 0) AND a.kind = s.kind AND a.subject = s.subject
           AND a.resolved_at IS NOT NULL AND a.silenced_until > p_now
         ORDER BY a.id DESC LIMIT 1) b ON true
     WHERE s.began_at <= p_now - embedmill.alert_patience(s.kind)
       -- One that was seen some time ago is only not gone yet.
       AND s.seen_at > p_now - CASE WHEN s.is_reported THEN interval '1 minute' ELSE interval '1 second' END
    ON CONFLICT (coalesce(tenant_id, 0), kind, subject) WHERE resolved_at IS NULL DO NOTHING;
    GET DIAGNOSTICS v_raised = ROW_COUNT;
    UPDATE embedmill.alerts
       SET acknowledged_at = NULL, acknowledged_by = NULL, silenced_until = NULL, told_severity = NULL
     WHERE resolved_at IS NULL AND silenced_until <= p_now;
    PERFORM embedmill.tell_alerts(NULL);
    RETURN format('%s raised, %s resolved', v_raised, v_resolved);
END
$$;

-- The same where no worker leads, for the service; NULL where one does.
CREATE OR REPLACE FUNCTION embedmill.watch_alerts_unled() RETURNS text
LANGUAGE sql AS $$
    SELECT embedmill.watch_alerts() FROM embedmill.sweep_leader WHERE expires_at < clock_timestamp()
$$;

-- A sentence with its time filled in.
CREATE OR REPLACE FUNCTION embedmill.dated(p_message text, p_since timestamptz) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT replace(p_message, '{since}', to_char(p_since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC')
$$;

-- Tells of what was raised and resolved and is not told yet: with NULL tenants of their own, with a tenant that one of
-- those of the installation. An alert that became critical is told once more; one that somebody has acknowledged
-- before it could be told, is not.
CREATE OR REPLACE FUNCTION embedmill.tell_alerts(p_operators_tenant_id integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    a embedmill.alerts;
    v_told integer := 0;
BEGIN
    FOR a IN
        SELECT * FROM embedmill.alerts
         WHERE (resolved_at IS NULL OR NOT is_end_told) AND (tenant_id IS NULL) = (p_operators_tenant_id IS NOT NULL)
           AND (resolved_at IS NOT NULL OR told_severity IS NULL AND acknowledged_at IS NULL
                OR told_severity = 'warning' AND severity = 'critical')
         ORDER BY id FOR UPDATE SKIP LOCKED
    LOOP
        IF a.resolved_at IS NULL THEN
            PERFORM embedmill.record_event(coalesce(a.tenant_id, p_operators_tenant_id), 'alert.raised', NULL, NULL,
                                           embedmill.alert_payload(a));
            UPDATE embedmill.alerts SET told_severity = a.severity WHERE id = a.id;
            v_told := v_told + 1;
        ELSE
            IF a.told_severity IS NOT NULL THEN
                PERFORM embedmill.record_event(coalesce(a.tenant_id, p_operators_tenant_id), 'alert.resolved', NULL, NULL,
                                               embedmill.alert_payload(a));
                v_told := v_told + 1;
            END IF;
            UPDATE embedmill.alerts SET is_end_told = true WHERE id = a.id;
        END IF;
    END LOOP;
    RETURN v_told;
END
$$;

-- An alert as events tell it. Names are those of the REST API.
CREATE OR REPLACE FUNCTION embedmill.alert_payload(a embedmill.alerts) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'alertId', a.id, 'kind', a.kind, 'scope', CASE WHEN a.tenant_id IS NULL THEN 'installation' ELSE 'tenant' END,
        'subject', a.subject, 'severity', a.severity, 'message', a.message, 'numbers', a.numbers, 'beganAt', a.began_at,
        'raisedAt', a.raised_at, 'resolvedAt', a.resolved_at)
$$;
