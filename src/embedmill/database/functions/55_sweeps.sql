-- Periodic work of the fleet: one leader at a time, each tick once, and the tasks themselves.

-- Takes or keeps the lead for so many seconds; returns the term, NULL where another leads. A new leader is a new
-- term, and whoever led before it cannot begin anything more.
CREATE OR REPLACE FUNCTION embedmill.lead_sweeps(p_worker_id uuid, p_seconds double precision) RETURNS bigint
LANGUAGE sql AS $$
    UPDATE embedmill.sweep_leader
       SET term = term + (worker_id IS DISTINCT FROM p_worker_id)::integer, worker_id = p_worker_id,
           expires_at = clock_timestamp() + make_interval(secs => p_seconds)
     WHERE worker_id = p_worker_id OR expires_at < clock_timestamp()
    RETURNING term
$$;

-- Gives the lead back, so that a leader who stops in order is replaced at once.
CREATE OR REPLACE FUNCTION embedmill.resign_sweeps(p_worker_id uuid) RETURNS void
LANGUAGE sql AS $$
    UPDATE embedmill.sweep_leader SET expires_at = '-infinity' WHERE worker_id = p_worker_id
$$;

-- Runs a task if its period is due and nobody has run it: the row of the tick is written by the transaction that
-- does the work, so that it happens once, and a leader that dies at it leaves it to the next. Returns what came
-- of it, NULL where there was nothing to do.
CREATE OR REPLACE FUNCTION embedmill.run_sweep(
    p_task text, p_period_seconds double precision, p_worker_id uuid, p_term bigint)
RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_tick bigint := floor(extract(epoch FROM clock_timestamp()) / p_period_seconds);
    v_outcome text;
BEGIN
    IF EXISTS (SELECT FROM embedmill.sweeps WHERE task = p_task AND tick = v_tick) THEN
        RETURN NULL;
    END IF;
    PERFORM FROM embedmill.sweep_leader WHERE worker_id = p_worker_id AND term = p_term FOR SHARE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    INSERT INTO embedmill.sweeps (task, tick, term, worker_id) VALUES (p_task, v_tick, p_term, p_worker_id)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    v_outcome := CASE p_task
        WHEN 'fold_counts' THEN embedmill.fold_queue_changes() + embedmill.fold_usage() || ' changes'
        WHEN 'complete_batches' THEN embedmill.complete_batches() || ' batches'
        WHEN 'sweep_budgets' THEN embedmill.sweep_budgets()::text
        WHEN 'fail_held_up' THEN embedmill.fail_held_up_items() || ' items'
        WHEN 'make_partitions' THEN embedmill.ensure_history_partitions() || ' partitions'
        WHEN 'check_tables' THEN embedmill.check_table_sources() || ' in trouble'
        WHEN 'start_backfills' THEN embedmill.start_backfills() || ' backfills'
        WHEN 'watch_alerts' THEN embedmill.watch_alerts()
        WHEN 'drop_expired' THEN embedmill.drop_expired()
        WHEN 'clean_up' THEN embedmill.clean_up()
    END;
    IF v_outcome IS NULL THEN
        RAISE EXCEPTION 'there is no sweep %', p_task USING ERRCODE = 'invalid_parameter_value';
    END IF;
    UPDATE embedmill.sweeps SET outcome = v_outcome WHERE task = p_task AND tick = v_tick;
    DELETE FROM embedmill.sweeps WHERE task = p_task AND tick < v_tick - 100;
    RETURN v_outcome;
END
$$;

-- Drops what is past its retention and goes as a whole: days of history with their counts, workers long gone. What goes
-- row by row does so in steps (56_retention.sql: drop_expired). Where somebody reads the history for long, its days are left for the next time: all
-- completions wait while we wait for the lock.
CREATE OR REPLACE FUNCTION embedmill.clean_up() RETURNS text
LANGUAGE plpgsql SET lock_timeout = '1s' AS $$
DECLARE
    v_first date := (now() AT TIME ZONE 'UTC')::date - embedmill.config_integer('history_retention_days')::integer;
    v_partition text;
    v_days integer := 0;
    v_workers integer;
BEGIN
    FOR v_partition IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'embedmill.embedding_queue_history'::regclass
           AND c.relname ~ '_\d{8}$' AND right(c.relname, 8) < to_char(v_first, 'YYYYMMDD')
         ORDER BY c.relname
    LOOP
        BEGIN
            EXECUTE format('DROP TABLE embedmill.%I', v_partition);
            v_days := v_days + 1;
        EXCEPTION WHEN lock_not_available THEN
            EXIT;
        END;
    END LOOP;
    DELETE FROM embedmill.embedding_queue_history_rest
     WHERE processing_completed_at < v_first::timestamp AT TIME ZONE 'UTC';
    DELETE FROM embedmill.queue_counts WHERE day < v_first AND day > '-infinity';
    PERFORM embedmill.forget_deleted_shards(30);
    DELETE FROM embedmill.embedding_queue_workers w
     WHERE w.status IN ('stopped', 'error') AND coalesce(w.stopped_at, w.heartbeat_at) < now() - interval '7 days'
       AND NOT EXISTS (SELECT FROM embedmill.embedding_queue q WHERE q.worker_id = w.worker_id AND q.status = 'processing');
    GET DIAGNOSTICS v_workers = ROW_COUNT;
    RETURN format('%s days of history and %s workers dropped', v_days, v_workers);
END
$$;
