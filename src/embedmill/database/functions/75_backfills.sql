-- Backfills: the orders to walk over the rows of a source, what they cost, when they begin anew. The walk itself is
-- carried out by whoever reads the source (sources/backfill.py).

-- Under which batch the items of one walk stand in the queue: another for each time it begins anew.
CREATE OR REPLACE FUNCTION embedmill.backfill_batch(p_record_source_id integer, p_started_at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
    SELECT md5(format('embedmill.backfill %s %s', p_record_source_id, extract(epoch FROM p_started_at)))::uuid
$$;

-- What the calls for a walk's items have cost since it began: its items have a usage type of their own, and calls are never
-- shared between usage types. NULL costs (an unknown price) count as nothing.
CREATE OR REPLACE FUNCTION embedmill.backfill_spent(
    p_tenant_id integer, p_pipeline_id integer, p_usage_type text, p_started_at timestamptz,
    OUT cost_usd numeric, OUT tokens bigint, OUT calls bigint)
LANGUAGE sql STABLE AS $$
    SELECT u.cost_usd, u.tokens, u.calls
      FROM embedmill.usage_since(p_tenant_id, p_started_at, p_pipeline_id, p_usage_type) AS u
$$;

-- What is left of a walk's budget: less what its calls cost and what those of its items may cost that still wait, so
-- that the queue holds nothing that it cannot pay for. NULL: it has none.
CREATE OR REPLACE FUNCTION embedmill.backfill_budget_left(b embedmill.backfills, p_usage_type text) RETURNS numeric
LANGUAGE sql STABLE SET enable_seqscan = off SET jit = off AS $$
    SELECT CASE WHEN b.budget_usd IS NOT NULL THEN
               b.budget_usd + coalesce(b.spent_usd_before, 0)
               - (embedmill.backfill_spent(s.tenant_id, s.pipeline_id, p_usage_type, b.started_at)).cost_usd
               - coalesce((
                    SELECT sum(greatest(q.estimated_tokens - q.actual_tokens, 0)
                               * coalesce(g.price_per_million_tokens, 0)) / 1000000
                      FROM embedmill.embedding_queue q JOIN embedmill.generations g ON g.id = q.generation_id
                     WHERE q.batch_id = embedmill.backfill_batch(b.record_source_id, b.started_at)), 0)
           END
      FROM embedmill.record_sources s WHERE s.id = b.record_source_id
$$;

-- Of these rows' documents those that a walk has to see to: never read, or without some vector of the live generation
-- though nothing waits to bring it. How many chunks and tokens are lacking.
CREATE OR REPLACE FUNCTION embedmill.lacking_documents(p_generation_id integer, p_source_type text, p_keys text[])
RETURNS TABLE (source_id text, chunks bigint, tokens bigint)
LANGUAGE plpgsql STABLE
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v embedmill.generations;
BEGIN
    SELECT * INTO STRICT v FROM embedmill.generations WHERE id = p_generation_id;
    RETURN QUERY EXECUTE format(
        'SELECT d.source_id, l.chunks, l.tokens'
        '  FROM embedmill.knowledge_documents d'
        ' CROSS JOIN LATERAL ('
        '   SELECT count(*) AS chunks, coalesce(sum(c.token_count), 0)::bigint AS tokens'
        '     FROM embedmill.knowledge_chunks c'
        '    WHERE c.document_id = d.id AND c.chunk_set = $3 AND c.error_reason IS NULL'
        '      AND NOT EXISTS (SELECT FROM embedmill.%I v WHERE v.chunk_id = c.id)) l'
        ' WHERE d.pipeline_id = $1 AND d.source_type = $2 AND d.source_id = ANY ($4)'
        '   AND (d.content_hash IS NULL'
        '        OR d.error_reason IS NULL AND l.chunks > 0'
        '           AND NOT EXISTS (SELECT FROM embedmill.embedding_queue q'
        '                            WHERE q.document_id = d.id AND q.generation_id = $5))',
        'vectors_' || p_generation_id)
    USING v.pipeline_id, p_source_type, v.chunk_set, p_keys, p_generation_id;
END
$$;

-- Starts what is due by its schedule, from the first row on and without the limits of the walk before; its rate, delay
-- and size of batches hold on. One that is still at work goes on. Whoever reckons with schedules (core/cron.py) says
-- when the next time is: NULL until then, so that a start happens once. How many were started.
CREATE OR REPLACE FUNCTION embedmill.start_backfills() RETURNS integer
LANGUAGE sql AS $$
    WITH due AS (
        SELECT b.record_source_id, b.started_at IS NULL OR b.ended_at IS NOT NULL AS begins
          FROM embedmill.backfills b
         WHERE b.schedule IS NOT NULL AND b.next_start_at <= clock_timestamp()
           FOR UPDATE SKIP LOCKED
    ), started AS (
        UPDATE embedmill.backfills b
           SET next_start_at = NULL,
               after_key = CASE WHEN d.begins THEN NULL ELSE b.after_key END,
               started_at = CASE WHEN d.begins THEN clock_timestamp() ELSE b.started_at END,
               rereads = b.rereads AND NOT d.begins,
               rows_walked = CASE WHEN d.begins THEN 0 ELSE b.rows_walked END,
               rows_read = CASE WHEN d.begins THEN 0 ELSE b.rows_read END,
               batches_left = CASE WHEN NOT d.begins THEN b.batches_left END,
               rows_left = CASE WHEN NOT d.begins THEN b.rows_left END,
               ends_before = CASE WHEN NOT d.begins THEN b.ends_before END,
               budget_usd = CASE WHEN NOT d.begins THEN b.budget_usd END,
               spent_usd_before = CASE WHEN NOT d.begins THEN b.spent_usd_before END,
               ended_at = CASE WHEN NOT d.begins THEN b.ended_at END,
               end_reason = CASE WHEN NOT d.begins THEN b.end_reason END,
               next_batch_at = CASE WHEN d.begins THEN clock_timestamp() ELSE b.next_batch_at END
          FROM due d WHERE b.record_source_id = d.record_source_id
        RETURNING d.begins
    )
    SELECT count(*) FILTER (WHERE begins)::integer FROM started
$$;
