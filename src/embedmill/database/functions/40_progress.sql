-- What one provider response changes besides the vectors. Called inside the transaction that has locked the
-- items (hold_items) and written the vectors; the order of locks is items, jobs, counters: everywhere.

-- p_jobs, p_embedded, p_reused, p_tokens, p_costs: the shares of the ingestion jobs that the call served.
CREATE OR REPLACE FUNCTION embedmill.advance_jobs(
    p_jobs uuid[], p_embedded integer[], p_reused integer[], p_failed integer[], p_tokens bigint[], p_costs numeric[])
RETURNS void
LANGUAGE sql AS $$
    WITH share AS (
        SELECT * FROM unnest(p_jobs, p_embedded, p_reused, p_failed, p_tokens, p_costs)
            AS s (job_id, embedded, reused, failed, tokens, cost)
    ), locked AS MATERIALIZED (
        SELECT id FROM embedmill.ingestion_jobs WHERE id = ANY (p_jobs) ORDER BY id FOR UPDATE
    )
    UPDATE embedmill.ingestion_jobs j
       SET embedded_chunks = j.embedded_chunks + s.embedded,
           reused_chunks = j.reused_chunks + s.reused,
           failed_chunks = j.failed_chunks + s.failed,
           paid_tokens = j.paid_tokens + s.tokens,
           cost_usd = j.cost_usd + s.cost,
           status = CASE WHEN j.status = 'embedding_in_progress'
                          AND j.embedded_chunks + s.embedded + j.failed_chunks + s.failed >= j.total_chunks
                         THEN 'completed'::embedmill.job_status ELSE j.status END,
           completed_at = CASE WHEN j.status = 'embedding_in_progress'
                          AND j.embedded_chunks + s.embedded + j.failed_chunks + s.failed >= j.total_chunks
                         THEN now() ELSE j.completed_at END,
           updated_at = now()
      FROM share s
     WHERE j.id = s.job_id AND j.id = ANY (ARRAY(SELECT id FROM locked))
$$;

-- Items that are not at their end yet: tokens so far, and more time, since there was progress.
CREATE OR REPLACE FUNCTION embedmill.advance_items(
    p_item_ids bigint[], p_tokens integer[], p_lease_seconds double precision)
RETURNS void
LANGUAGE sql AS $$
    UPDATE embedmill.embedding_queue q
       SET actual_tokens = q.actual_tokens + s.tokens,
           lease_deadline = now() + make_interval(secs => p_lease_seconds)
      FROM unnest(p_item_ids, p_tokens) AS s (item_id, tokens)
     WHERE q.id = s.item_id
$$;

CREATE OR REPLACE FUNCTION embedmill.count_coverage(p_generation_id integer, p_embedded integer, p_unembeddable integer)
RETURNS void
LANGUAGE sql AS $$
    UPDATE embedmill.coverage_counters
       SET embedded = embedded + p_embedded, unembeddable = unembeddable + p_unembeddable
     WHERE generation_id = p_generation_id
$$;

-- Marks chunks that the provider refuses for good, each with its dead letter.
CREATE OR REPLACE FUNCTION embedmill.bury_chunks(
    p_generation_id integer, p_item_ids bigint[], p_chunk_ids bigint[], p_reason text, p_error_message text)
RETURNS void
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
$$;
