-- Why an item waits, in the order in which a person would ask.

-- How many items of its lane are before an item, and how many of its generation's other lanes could be taken as well;
-- 1,000 of each lane are counted.
CREATE OR REPLACE FUNCTION embedmill.items_before(p_item_id bigint, OUT ahead bigint, OUT of_other_lanes bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
    SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
    q embedmill.embedding_queue;
BEGIN
    SELECT * INTO q FROM embedmill.embedding_queue WHERE id = p_item_id;
    IF NOT FOUND OR NOT embedmill.caller_sees(q.tenant_id) THEN
        RETURN;
    END IF;
    SELECT count(*) INTO ahead FROM (
        SELECT FROM embedmill.embedding_queue o
         WHERE o.generation_id = q.generation_id AND o.priority = q.priority
           AND o.status IN ('pending', 'rate_limited') AND (o.available_at, o.id) < (q.available_at, q.id)
         LIMIT 1000) before;
    SELECT count(*) INTO of_other_lanes FROM unnest(enum_range(NULL::embedmill.queue_priority)) AS lane (priority)
     CROSS JOIN LATERAL (
        SELECT FROM embedmill.embedding_queue o
         WHERE o.generation_id = q.generation_id AND o.priority = lane.priority
           AND o.status IN ('pending', 'rate_limited') AND o.available_at <= now()
         LIMIT 1000) waiting
     WHERE lane.priority <> q.priority;
END
$$;

-- Why an item waits: each reason with its explanation, in the order in which a person would ask.
CREATE OR REPLACE FUNCTION embedmill.explain_item(p_item_id bigint)
RETURNS TABLE (reason text, explanation text, until timestamptz)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    q embedmill.embedding_queue;
    h embedmill.embedding_queue_history;
    w embedmill.embedding_queue_workers;
    p embedmill.pipelines;
    t embedmill.tenants;
    s record;
    v_count bigint;
    v_others bigint;
    v_text text;
BEGIN
    SELECT * INTO q FROM embedmill.embedding_queue WHERE id = p_item_id;
    IF NOT FOUND THEN
        -- By tenant, as its index is.
        SELECT * INTO h FROM embedmill.embedding_queue_history
         WHERE id = p_item_id AND tenant_id = ANY (ARRAY(SELECT o.id FROM embedmill.tenants o));
        IF FOUND THEN
            RETURN QUERY SELECT h.status::text, format('it %s at %s%s',
                CASE h.status WHEN 'failed' THEN 'failed' ELSE 'was ' || h.status END,
                to_char(h.processing_completed_at, 'YYYY-MM-DD HH24:MI:SS TZ'), ': ' || h.error_message), NULL::timestamptz;
        END IF;
        RETURN;
    END IF;
    SELECT pl.* INTO STRICT p FROM embedmill.pipelines pl
      JOIN embedmill.generations g ON g.pipeline_id = pl.id WHERE g.id = q.generation_id;
    SELECT * INTO STRICT t FROM embedmill.tenants WHERE id = q.tenant_id;

    IF q.status = 'processing' THEN
        SELECT * INTO w FROM embedmill.embedding_queue_workers WHERE worker_id = q.worker_id;
        RETURN QUERY SELECT 'processing', format('worker %s (%s, pid %s) is at it since %s; last heartbeat %s s ago',
            q.worker_id, coalesce(w.hostname, 'unknown'), coalesce(w.pid::text, '?'),
            to_char(q.processing_started_at, 'HH24:MI:SS'),
            coalesce(round(extract(epoch FROM now() - w.heartbeat_at))::text, '?')), q.lease_deadline;
        RETURN;
    END IF;

    IF NOT embedmill.queue_enabled() THEN
        RETURN QUERY SELECT 'queue_disabled', 'queue_enabled is false: `embedmill config set queue_enabled true`',
                            NULL::timestamptz;
    END IF;
    IF p.paused_at IS NOT NULL THEN
        RETURN QUERY SELECT 'paused', format('pipeline %s is paused since %s: `embedmill queue resume --pipeline %s`',
            p.name, to_char(p.paused_at, 'YYYY-MM-DD HH24:MI:SS'), p.name), NULL::timestamptz;
    END IF;
    IF q.document_id IS NOT NULL AND q.first_ordinal IS NULL AND q.operation <> 'DELETE' THEN
        SELECT r.name, r.paused_at, r.trouble INTO s
          FROM embedmill.knowledge_documents d JOIN embedmill.record_sources r ON r.id = d.record_source_id
         WHERE d.id = q.document_id;
        RETURN QUERY SELECT 'to_be_read', format('its record waits to be read and cut by a worker%s', CASE
            WHEN s.paused_at IS NOT NULL THEN format(
                ': the source %s is paused since %s', s.name, to_char(s.paused_at, 'YYYY-MM-DD HH24:MI:SS'))
            WHEN s.trouble IS NOT NULL THEN format(', and the source %s cannot be read: %s', s.name, s.trouble)
            ELSE '' END), NULL::timestamptz;
    ELSIF q.available_at = 'infinity' THEN
        RETURN QUERY SELECT 'budget', coalesce(q.error_message, 'a budget is reached'), NULL::timestamptz;
    ELSIF q.available_at > now() AND q.status = 'rate_limited' THEN
        RETURN QUERY SELECT 'rate_limited', format('the provider asked to wait %s s; no attempt was spent%s',
            round(q.rate_limit_delay_ms / 1000.0, 1), ': ' || q.error_message), q.available_at;
    ELSIF q.available_at > now() THEN
        RETURN QUERY SELECT 'backoff', format('%s of %s attempts failed and the next one is due later%s',
            q.retry_count, q.max_retries + 1, ': ' || q.error_message), q.available_at;
    END IF;
    SELECT * INTO s FROM embedmill.quota_state(p.quota_key);
    IF s.cooling_seconds > 0 THEN
        RETURN QUERY SELECT 'quota', format('everybody on quota key %s holds back%s', p.quota_key,
            ': ' || s.cooldown_reason), clock_timestamp() + make_interval(secs => s.cooling_seconds);
    ELSIF s.binds THEN
        RETURN QUERY SELECT 'quota', format('quota key %s is used up for now: %s of %s calls and %s of %s tokens in '
            'the last minute', p.quota_key, s.calls_used, coalesce(s.calls_per_minute::text, 'unlimited'),
            s.tokens_used, coalesce(s.tokens_per_minute::text, 'unlimited')), NULL::timestamptz;
    END IF;
    IF t.max_processing_items IS NOT NULL THEN
        SELECT count(*) INTO v_count FROM embedmill.embedding_queue o
         WHERE o.status = 'processing' AND o.tenant_id = q.tenant_id;
        IF v_count >= t.max_processing_items THEN
            RETURN QUERY SELECT 'cap', format('tenant %s has %s items in work, and that is its cap', t.slug, v_count),
                                NULL::timestamptz;
        END IF;
    END IF;
    FOR v_text IN
        SELECT DISTINCT k.troubles ->> q.generation_id::text FROM embedmill.embedding_queue_workers k
         WHERE k.status IN ('active', 'idle') AND k.troubles ? q.generation_id::text
    LOOP
        RETURN QUERY SELECT 'provider', 'a worker leaves this pipeline alone for now: ' || v_text, NULL::timestamptz;
    END LOOP;
    SELECT count(*) INTO v_count FROM embedmill.embedding_queue_workers k WHERE k.status IN ('active', 'idle')
       AND k.heartbeat_at > clock_timestamp() - make_interval(secs => k.heartbeat_interval_ms * 1.75 / 1000.0);
    IF v_count = 0 THEN
        RETURN QUERY SELECT 'no_worker', 'no worker is alive: start one with `embedmill worker`', NULL::timestamptz;
    END IF;
    IF q.available_at <= now() THEN
        SELECT b.ahead, b.of_other_lanes INTO v_count, v_others FROM embedmill.items_before(q.id) AS b;
        IF v_count > 0 OR v_others > 0 THEN
            RETURN QUERY SELECT 'behind', format('%s%s items of priority %s are before it, and %s%s of other '
                'priorities share the turns', v_count, CASE WHEN v_count = 1000 THEN ' or more' ELSE '' END,
                q.priority, v_others, CASE WHEN v_others >= 1000 THEN ' or more' ELSE '' END), NULL::timestamptz;
        ELSE
            RETURN QUERY SELECT 'ready', 'nothing of its pipeline is before it', NULL::timestamptz;
        END IF;
    END IF;
END
$$;
