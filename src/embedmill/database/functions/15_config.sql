-- The queue's configuration: which settings there are, how they are checked, who changed them. Read by the
-- functions at each use and by the workers every two seconds, so that a change needs no restart.

INSERT INTO embedmill.embedding_queue_config AS c (key, value, default_value, kind, minimum, maximum, description)
SELECT key, default_value, default_value, kind, minimum, maximum, description
  FROM (VALUES
    ('queue_enabled', 'true'::jsonb, 'boolean', NULL::bigint, NULL::bigint,
     'false: workers claim nothing, and an ingest embeds in its own process instead of enqueueing'),
    ('max_concurrent_workers', '3', 'integer', 1, 1000,
     'worker processes that `embedmill worker --processes auto` runs at most, on each machine'),
    ('min_concurrent_workers', '1', 'integer', 1, 1000,
     'worker processes that it keeps even when there is nothing to do'),
    ('scale_up_after_seconds', '10', 'integer', 0, 86400,
     'another worker process is started when the oldest item that could be worked on waits this long'),
    ('scale_down_after_seconds', '60', 'integer', 1, 86400,
     'a worker process is stopped when one fewer would have sufficed for this long'),
    ('outage_patience_seconds', '900', 'integer', 0, 604800,
     'work that was begun and finds its provider away fails, resumable, after this long; 0: it waits for ever'),
    ('batch_size', '500', 'integer', 1, 10000,
     'items that a worker takes from the queue at a time, at most'),
    ('rate_limit_delay_ms', '1000', 'integer', 1, 3600000,
     'the wait after a 429 that names none; it grows while the provider goes on refusing'),
    ('max_retries', '3', 'integer', 0, 100,
     'attempts after the first before an item becomes a dead letter; holds for items enqueued from now on'),
    ('lease_seconds', '600', 'integer', 1, 86400,
     'an item without any progress for this long goes to another worker, though its worker may be alive'),
    ('worker_heartbeat_interval_ms', '30000', 'integer', 100, 3600000,
     'how often a worker says that it lives; its items are recovered within two intervals of its death'),
    ('queue_cleanup_interval_hours', '24', 'integer', 1, 8760,
     'how often what is past its retention is dropped'),
    ('history_retention_days', '90', 'integer', 1, 36500,
     'how long ended items are kept'),
    ('audit_interval_hours', '24', 'integer', 0, 8760,
     'how often everything is audited, slowly, by a worker; 0: only where somebody asks for it'),
    ('audit_repair', 'false', 'boolean', NULL, NULL,
     'true: that audit mends all that it finds, which may pay for vectors and delete some; false: bookkeeping only'),
    ('priority_weights', '{"high": 3, "medium": 2, "low": 1}', 'weights', 1, 1000,
     'the shares of the three priorities where all three wait'),
    ('priority_aging_seconds', '60', 'integer', 1, 86400,
     'an item gains its weight once more for each such period that it waits, so that nothing starves'),
    ('api_quota_per_minute', '60', 'integer', 1, 1000000000,
     'calls a minute of a pipeline on OpenAI that has no limit of its own'),
    ('token_quota_per_minute', '100000', 'integer', 1, 2000000000,
     'tokens a minute of a pipeline on OpenAI that has no limit of its own'),
    ('cancellation_check_interval', '25', 'integer', 1, 10000,
     'chunks after which an ingest without the queue looks whether it was cancelled'),
    ('usage_retention_days', '0', 'integer', 0, 36500,
     'how long single calls stand in the usage ledger, 32 days at least; older ones are summed by the half hour; 0: for ever'),
    ('originals_retention_days', '0', 'integer', 0, 36500,
     'how long the original of an upload is kept after its job has ended; 0: as long as the document'),
    ('events_retention_days', '7', 'integer', 1, 36500,
     'how long events are kept, for streams that are taken up again'),
    ('webhook_retention_days', '90', 'integer', 1, 36500,
     'how long deliveries of webhooks are kept after they were made'),
    ('alert_retention_days', '90', 'integer', 1, 36500,
     'how long alerts are kept after they were resolved'),
    ('audit_log_retention_days', '0', 'integer', 0, 36500,
     'how long the audit log is kept; 0: for ever'),
    ('alert_after_seconds', '60', 'integer', 0, 86400,
     'an alert is raised when its condition has held for this long'),
    ('alert_clear_seconds', '120', 'integer', 0, 86400,
     'an alert is resolved when its condition has not held for this long'),
    ('alert_waiting_seconds', '900', 'integer', 0, 604800,
     'alert: work waits for this long and nothing is done; 0: never'),
    ('alert_quota_seconds', '900', 'integer', 0, 604800,
     'alert: a quota has held work back for this long; 0: never'),
    ('alert_failure_percent', '20', 'integer', 0, 100,
     'alert: of the items of a pipeline that ended within 15 minutes so many failed (20 items at least); 0: never'),
    ('alert_dead_letters', '100', 'integer', 0, 10000,
     'alert: a tenant has got so many dead letters within an hour, and they are open; 0: never'),
    ('alert_coverage_drop_percent', '5', 'integer', 0, 100,
     'alert: coverage lies so many points below the best of the last day and does not rise; 0: never'),
    ('alert_budget_percent', '80', 'integer', 0, 100,
     'alert: so much of a tenant''s budget is spent; 0: never'),
    ('alert_transaction_seconds', '3600', 'integer', 0, 604800,
     'alert: a transaction is open for this long, and vacuum cannot clean what it may see; 0: never'),
    ('alert_xmin_age', '5000000', 'integer', 0, 2000000000,
     'alert: a replication slot or a prepared transaction is so many transactions behind; 0: never')
  ) AS defined (key, default_value, kind, minimum, maximum, description)
ON CONFLICT (key) DO UPDATE
   SET default_value = excluded.default_value, kind = excluded.kind, minimum = excluded.minimum,
       maximum = excluded.maximum, description = excluded.description,
       value = CASE WHEN c.updated_at IS NULL THEN excluded.default_value ELSE c.value END
 WHERE (c.default_value, c.kind, c.minimum, c.maximum, c.description)
       IS DISTINCT FROM (excluded.default_value, excluded.kind, excluded.minimum, excluded.maximum, excluded.description);

-- One whole number of the configuration.
CREATE OR REPLACE FUNCTION embedmill.config_integer(p_key text) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT value::bigint FROM embedmill.embedding_queue_config WHERE key = p_key
$$;

CREATE OR REPLACE FUNCTION embedmill.queue_enabled() RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT value::boolean FROM embedmill.embedding_queue_config WHERE key = 'queue_enabled'
$$;

-- Who acts: what the program says of its user (embedmill.actor), else the database's user.
CREATE OR REPLACE FUNCTION embedmill.current_actor() RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT coalesce(nullif(current_setting('embedmill.actor', true), ''), session_user)
$$;

CREATE OR REPLACE FUNCTION embedmill.record_action(
    p_tenant_id integer, p_action text, p_subject text, p_old_value jsonb, p_new_value jsonb)
RETURNS void
LANGUAGE sql AS $$
    INSERT INTO embedmill.audit_log (tenant_id, actor, action, subject, old_value, new_value)
    VALUES (p_tenant_id, embedmill.current_actor(), p_action, p_subject, p_old_value, p_new_value)
$$;

-- A value that a person sets is checked here, whichever way it comes.
CREATE OR REPLACE FUNCTION embedmill.check_config() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_problem text;
BEGIN
    IF NEW.kind = 'boolean' AND jsonb_typeof(NEW.value) <> 'boolean' THEN
        v_problem := 'it is true or false';
    ELSIF NEW.kind = 'integer' THEN
        IF jsonb_typeof(NEW.value) <> 'number' OR NEW.value::numeric <> trunc(NEW.value::numeric)
           OR NEW.value::numeric NOT BETWEEN NEW.minimum AND NEW.maximum THEN
            v_problem := format('it is a whole number from %s to %s', NEW.minimum, NEW.maximum);
        END IF;
    ELSIF NEW.kind = 'weights' THEN
        IF jsonb_typeof(NEW.value) <> 'object'
           OR ARRAY(SELECT jsonb_object_keys(NEW.value) ORDER BY 1) <> ARRAY['high', 'low', 'medium']
           OR EXISTS (SELECT FROM jsonb_each(NEW.value) AS w
                       WHERE jsonb_typeof(w.value) <> 'number'
                          OR CASE WHEN jsonb_typeof(w.value) = 'number'
                                  THEN w.value::numeric NOT BETWEEN NEW.minimum AND NEW.maximum END) THEN
            v_problem := format('it is {"high": n, "medium": n, "low": n} with numbers from %s to %s',
                                NEW.minimum, NEW.maximum);
        END IF;
    END IF;
    IF v_problem IS NULL AND NEW.key IN ('min_concurrent_workers', 'max_concurrent_workers')
       AND EXISTS (SELECT FROM embedmill.embedding_queue_config o
                    WHERE (NEW.key = 'min_concurrent_workers' AND o.key = 'max_concurrent_workers'
                           AND NEW.value::numeric > o.value::numeric)
                       OR (NEW.key = 'max_concurrent_workers' AND o.key = 'min_concurrent_workers'
                           AND NEW.value::numeric < o.value::numeric)) THEN
        v_problem := 'min_concurrent_workers may not be above max_concurrent_workers; set the other one first';
    END IF;
    IF v_problem IS NULL AND NEW.key = 'usage_retention_days' AND NEW.value::numeric BETWEEN 1 AND 31 THEN
        v_problem := 'the calls of the month that runs are needed one by one; it is 0 (for ever), or 32 or more';
    END IF;
    IF v_problem IS NOT NULL THEN
        RAISE EXCEPTION '% cannot be %: %', NEW.key, NEW.value, v_problem USING ERRCODE = 'invalid_parameter_value';
    END IF;
    NEW.updated_at := now();
    NEW.updated_by := embedmill.current_actor();
    PERFORM embedmill.record_action(NULL, 'config.set', NEW.key, OLD.value, NEW.value);
    RETURN NEW;
END
$$;

-- Definitions come with a release; only a changed value is somebody's act.
CREATE OR REPLACE TRIGGER check_config BEFORE UPDATE OF value ON embedmill.embedding_queue_config
    FOR EACH ROW WHEN (OLD.value IS DISTINCT FROM NEW.value AND NEW.default_value = OLD.default_value)
    EXECUTE FUNCTION embedmill.check_config();

-- Sets a value (NULL: back to the default); returns the one before. Unknown keys are refused with the known ones.
CREATE OR REPLACE FUNCTION embedmill.set_config_value(p_key text, p_value jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_old jsonb;
BEGIN
    SELECT value INTO v_old FROM embedmill.embedding_queue_config WHERE key = p_key FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no setting %; there are: %', p_key,
            (SELECT string_agg(key, ', ' ORDER BY key) FROM embedmill.embedding_queue_config)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    UPDATE embedmill.embedding_queue_config SET value = coalesce(p_value, default_value) WHERE key = p_key;
    RETURN v_old;
END
$$;
