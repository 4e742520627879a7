-- What one provider response changes besides the vectors. Called inside the transaction that has locked the
-- items (hold_items) and written the vectors; the order of locks is items, jobs, counters: everywhere.

-- p_jobs, p_embedded, p_reused, p_tokens, p_costs: the shares of the ingestion jobs that the call served.
-- A job is completed when its last item has ended, for an item ends as completed only when every vector stands:
-- the counts are for people. A vector that was taken away and made again is counted twice on the way, hence
-- `least`; in the end what did not fail is embedded.
CREATE OR REPLACE FUNCTION embedmill.advance_jobs(
    p_jobs uuid[], p_embedded integer[], p_reused integer[], p_failed integer[], p_tokens bigint[], p_costs numeric[])
RETURNS void
LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
BEGIN
    -- In a statement of its own: the next one then sees which items the transactions before us have ended.
    PERFORM FROM embedmill.ingestion_jobs WHERE id = ANY (p_jobs) ORDER BY id FOR UPDATE;
    UPDATE embedmill.ingestion_jobs j
       SET embedded_chunks = CASE WHEN s.is_done AND j.error_stage IS DISTINCT FROM 'cancellation'
                                  THEN j.total_chunks - s.failed
                                  ELSE least(j.embedded_chunks + s.embedded, j.total_chunks - s.failed) END,
           reused_chunks = j.reused_chunks + s.reused,
           failed_chunks = s.failed,
           paid_tokens = j.paid_tokens + s.tokens,
           cost_usd = j.cost_usd + s.cost,
           -- A job of which a part was cancelled (cancel_items) ends so when the rest has ended.
           status = CASE WHEN NOT s.is_done THEN j.status
                         WHEN j.error_stage = 'cancellation' THEN 'cancelled' ELSE 'completed' END::embedmill.job_status,
           completed_at = CASE WHEN s.is_done THEN now() ELSE j.completed_at END,
           updated_at = now()
      FROM (SELECT k.id, p.embedded, p.reused, p.tokens, p.cost,
                   least(k.failed_chunks + p.failed, k.total_chunks) AS failed,
                   -- No NOT EXISTS: the planner may answer that by hashing the whole queue.
                   k.status = 'embedding_in_progress'
                   AND coalesce((SELECT false FROM embedmill.embedding_queue q
                                  WHERE q.document_id = k.document_id AND q.job_id = k.id LIMIT 1), true) AS is_done
              FROM unnest(p_jobs, p_embedded, p_reused, p_failed, p_tokens, p_costs)
                   AS p (job_id, embedded, reused, failed, tokens, cost)
              JOIN embedmill.ingestion_jobs k ON k.id = p.job_id) s
     WHERE j.id = s.id;
END
$$;

-- Items that are not at their end yet: tokens so far, and more time, since there was progress.
CREATE OR REPLACE FUNCTION embedmill.advance_items(
    p_item_ids bigint[], p_tokens integer[], p_lease_seconds double precision)
RETURNS void
LANGUAGE sql AS $$
    UPDATE embedmill.embedding_queue q
       SET actual_tokens = q.actual_tokens + s.tokens, held_up_at = NULL,
           lease_deadline = now() + make_interval(secs => p_lease_seconds)
      FROM unnest(p_item_ids, p_tokens) AS s (item_id, tokens)
     WHERE q.id = s.item_id
$$;

-- Vectors count in their generation; a refused chunk counts in every generation that it is for, since none tries it.
-- Each also in the minute in which it happened.
CREATE OR REPLACE FUNCTION embedmill.count_chunks(p_generation_id integer, p_embedded bigint[], p_refused bigint[])
RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v embedmill.generations;
    v_sources integer[] := '{0}';
    v_embedded bigint[] := ARRAY[cardinality(p_embedded)];
    v_refused bigint[] := ARRAY[cardinality(p_refused)];
BEGIN
    SELECT * INTO STRICT v FROM embedmill.generations WHERE id = p_generation_id;
    PERFORM embedmill.write_columns(p_generation_id, p_embedded, p_refused);    -- 71_columns.sql
    -- Where there are no records, nobody need ask each chunk whose it is.
    IF EXISTS (SELECT FROM embedmill.record_sources WHERE pipeline_id = v.pipeline_id) THEN
        SELECT array_agg(n.record_source_id ORDER BY n.record_source_id),
               array_agg(n.embedded ORDER BY n.record_source_id), array_agg(n.refused ORDER BY n.record_source_id)
          INTO v_sources, v_embedded, v_refused
          FROM (SELECT c.record_source_id, count(*) FILTER (WHERE NOT w.is_refused) AS embedded,
                       count(*) FILTER (WHERE w.is_refused) AS refused
                  FROM (SELECT unnest(p_embedded) AS id, false AS is_refused
                        UNION ALL SELECT unnest(p_refused), true) w
                  JOIN embedmill.knowledge_chunks c ON c.id = w.id
                 GROUP BY c.record_source_id) n;
    END IF;
    UPDATE embedmill.coverage_counters k
       SET embedded = k.embedded + CASE WHEN n.generation_id = p_generation_id THEN n.embedded ELSE 0 END,
           unembeddable = k.unembeddable + n.refused
      FROM (SELECT g.id AS generation_id, s.record_source_id, s.embedded, s.refused
              FROM unnest(v_sources, v_embedded, v_refused) AS s (record_source_id, embedded, refused)
              JOIN embedmill.generations g
                ON g.pipeline_id = v.pipeline_id AND g.chunk_set = v.chunk_set
                   AND (g.id = p_generation_id OR s.refused > 0)
             ORDER BY g.id, s.record_source_id) n
     WHERE k.generation_id = n.generation_id AND k.record_source_id = n.record_source_id;
    INSERT INTO embedmill.embedding_minutes AS m
        (minute, generation_id, record_source_id, tenant_id, embedded, unembeddable)
    SELECT date_trunc('minute', clock_timestamp()), p_generation_id, s.record_source_id, v.tenant_id, s.embedded, s.refused
      FROM unnest(v_sources, v_embedded, v_refused) AS s (record_source_id, embedded, refused)
     ORDER BY s.record_source_id
    ON CONFLICT (generation_id, record_source_id, minute) DO UPDATE
       SET embedded = m.embedded + excluded.embedded, unembeddable = m.unembeddable + excluded.unembeddable;
END
$$;

-- Chunks that were refused and are to be tried again are no longer counted as such. Called last, as count_chunks is.
CREATE OR REPLACE FUNCTION embedmill.count_forgiven(p_chunk_ids bigint[]) RETURNS void
LANGUAGE sql AS $$
    UPDATE embedmill.coverage_counters k SET unembeddable = k.unembeddable - n.chunks
      FROM (SELECT g.id AS generation_id, c.record_source_id, count(*) AS chunks
              FROM embedmill.knowledge_chunks c
              JOIN embedmill.generations g ON g.pipeline_id = c.pipeline_id AND g.chunk_set = c.chunk_set
             WHERE c.id = ANY (p_chunk_ids)
             GROUP BY g.id, c.record_source_id ORDER BY g.id, c.record_source_id) n
     WHERE k.generation_id = n.generation_id AND k.record_source_id = n.record_source_id
$$;

-- Marks chunks that the provider refuses for good, each with its dead letter; returns those that it marked.
CREATE OR REPLACE FUNCTION embedmill.bury_chunks(
    p_generation_id integer, p_item_ids bigint[], p_chunk_ids bigint[], p_reason text, p_error_message text)
RETURNS SETOF bigint
LANGUAGE sql AS $$
    WITH marked AS (
        UPDATE embedmill.knowledge_chunks SET error_reason = p_reason
         WHERE id = ANY (p_chunk_ids) AND error_reason IS NULL
        RETURNING id, tenant_id, document_id
    )
    INSERT INTO embedmill.dead_letters
        (tenant_id, generation_id, item_id, document_id, chunk_id, reason, error_message)
    SELECT m.tenant_id, p_generation_id, l.item_id, m.document_id, m.id, p_reason, p_error_message
      FROM marked m JOIN unnest(p_item_ids, p_chunk_ids) AS l (item_id, chunk_id) ON l.chunk_id = m.id
    RETURNING chunk_id
$$;

-- Chunks of uploads of a pipeline that stand at their preview: they lack vectors because nobody has launched them yet. Of
-- one that replaces an older content all are counted, also those that were embedded before.
CREATE OR REPLACE FUNCTION embedmill.chunks_at_preview(p_tenant_id integer, p_pipeline_id integer) RETURNS bigint
LANGUAGE sql STABLE STRICT SET enable_seqscan = off SET jit = off AS $$
    SELECT coalesce(sum(j.total_chunks), 0)
      FROM (SELECT n.total_chunks FROM embedmill.ingestion_jobs n
             WHERE n.tenant_id = p_tenant_id AND n.status = 'chunk_preview_ready' AND n.pipeline_id = p_pipeline_id
             LIMIT 10000) j
$$;
