-- Recovery: what workers that died, hung or froze have left.

-- Frees the items of workers that are gone: no heartbeat for 1.75 intervals (so that with a look every eighth of
-- one all is done within two), known dead (p_dead_workers, seen by whoever shares their machine), or past the hard
-- deadline, which also catches a worker that hangs with its heart beating. Crashes are counted apart from
-- failures: more than ten, and the item is a dead letter. Returns how many items.
--
-- A worker that froze within a transaction still holds its locks, and its items could never be freed: its
-- sessions are ended. Should it only have been slow, it connects again and finds its leases void.
CREATE OR REPLACE FUNCTION embedmill.rescue_items(p_dead_workers uuid[]) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_ids bigint[];
    v_used_up bigint[];
    v_left bigint[];
    v_has_dead boolean;
BEGIN
    UPDATE embedmill.embedding_queue_workers w
       SET status = 'error', stopped_at = now(), last_error = 'the process is gone'
     WHERE w.status IN ('active', 'idle')
       AND (w.worker_id = ANY (p_dead_workers)
            -- While the server was away nobody could beat: the time counts from its start.
            OR greatest(w.heartbeat_at, pg_postmaster_start_time())
               < clock_timestamp() - make_interval(secs => w.heartbeat_interval_ms * 1.75 / 1000.0));
    v_has_dead := FOUND;
    PERFORM embedmill.end_dead_sessions();
    v_ids := ARRAY(
        SELECT q.id
          FROM embedmill.embedding_queue q
         WHERE q.status = 'processing'
           AND (q.lease_deadline < clock_timestamp()
                OR NOT EXISTS (SELECT FROM embedmill.embedding_queue_workers w
                                WHERE w.worker_id = q.worker_id AND w.status IN ('active', 'idle')))
         ORDER BY q.id
           FOR UPDATE SKIP LOCKED);
    v_left := embedmill.end_cancelled_items(v_ids);  -- nobody gets what somebody wants to stop
    v_used_up := ARRAY(SELECT id FROM embedmill.embedding_queue WHERE id = ANY (v_left) AND crash_count >= 10 ORDER BY id);
    UPDATE embedmill.embedding_queue SET crash_count = crash_count + 1 WHERE id = ANY (v_used_up);
    PERFORM embedmill.bury_items(v_used_up, 'crash', 'the worker died or hung each time it worked on this item');
    UPDATE embedmill.embedding_queue
       SET status = 'pending', lease_token = NULL, lease_deadline = NULL, worker_id = NULL,
           crash_count = crash_count + 1
     WHERE id = ANY (v_left);
    IF v_has_dead THEN
        PERFORM embedmill.release_dead_reservations();
    END IF;
    RETURN cardinality(v_ids);
END
$$;

-- Ends the sessions of workers that hold items and are gone, or hold them past their deadline: what they have
-- locked is free then. Asked only where there are such items, so that the list of sessions is seldom read.
CREATE OR REPLACE FUNCTION embedmill.end_dead_sessions() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_names text[] := ARRAY(
        SELECT DISTINCT w.session_name
          FROM embedmill.embedding_queue q
          JOIN embedmill.embedding_queue_workers w ON w.worker_id = q.worker_id
         WHERE q.status = 'processing' AND w.session_name IS NOT NULL
           AND (q.lease_deadline < clock_timestamp() OR w.status NOT IN ('active', 'idle')));
BEGIN
    IF cardinality(v_names) > 0 THEN
        PERFORM pg_terminate_backend(a.pid)
           FROM pg_stat_activity a
          WHERE a.application_name = ANY (v_names) AND a.datname = current_database() AND a.usename = current_user
            AND a.pid <> pg_backend_pid();
    END IF;
END
$$;

-- Fails what was begun and has waited too long for a provider that is away (outage_patience_seconds), each with what
-- was said last: its job can be resumed then by a person, and does not look alive for ever. What was never begun waits
-- on. Returns how many items.
CREATE OR REPLACE FUNCTION embedmill.fail_held_up_items() RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_patience bigint := embedmill.config_integer('outage_patience_seconds');
    v_ids bigint[];
    v record;
BEGIN
    IF v_patience = 0 THEN
        RETURN 0;
    END IF;
    v_ids := ARRAY(SELECT q.id FROM embedmill.embedding_queue q
                    WHERE q.held_up_at < now() - make_interval(secs => v_patience) AND q.status = 'pending'
                    ORDER BY q.id FOR UPDATE SKIP LOCKED);
    FOR v IN
        SELECT array_agg(q.id ORDER BY q.id) AS ids, q.error_message
          FROM embedmill.embedding_queue q WHERE q.id = ANY (v_ids) GROUP BY q.error_message
    LOOP
        PERFORM embedmill.bury_items(v.ids, 'provider_unavailable', format(
            'the provider was away for more than %s s: %s', v_patience, coalesce(v.error_message, 'no answer')));
    END LOOP;
    RETURN cardinality(v_ids);
END
$$;
