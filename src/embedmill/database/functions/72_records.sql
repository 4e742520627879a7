-- Reading records: who reads a source, and what is committed of it. The order of locks is record_sources, documents,
-- items, chunks, counters.

-- Leases a source that has something to read to a worker: one reader each. NULL where there is none. p_source_ids
-- narrows the choice (NULL: any). The one that was read longest ago comes first.
CREATE OR REPLACE FUNCTION embedmill.claim_record_source(
    p_worker_id uuid, p_lease_seconds double precision, p_source_ids integer[] DEFAULT NULL)
RETURNS TABLE (record_source_id integer, reader_token bigint)
LANGUAGE sql AS $$
    UPDATE embedmill.record_sources s
       SET reader_id = p_worker_id, reader_token = nextval('embedmill.lease_tokens'),
           reader_deadline = clock_timestamp() + make_interval(secs => p_lease_seconds)
     WHERE s.id = (
        SELECT c.id FROM embedmill.record_sources c
          LEFT JOIN embedmill.backfills b ON b.record_source_id = c.id
         WHERE (p_source_ids IS NULL OR c.id = ANY (p_source_ids))
           AND c.paused_at IS NULL
           -- Nothing is read, and paid for, whose vectors its table does not take (71_columns.sql).
           AND NOT EXISTS (SELECT FROM embedmill.target_columns t
                            WHERE t.record_source_id = c.id AND t.trouble IS NOT NULL)
           AND (c.reader_deadline IS NULL OR c.reader_deadline < clock_timestamp()
                OR c.reader_id IS NOT NULL AND NOT EXISTS (SELECT FROM embedmill.embedding_queue_workers w
                                WHERE w.worker_id = c.reader_id AND w.status IN ('active', 'idle')))
           AND (EXISTS (SELECT FROM embedmill.record_changes r WHERE r.record_source_id = c.id)
                OR b.started_at IS NOT NULL AND b.ended_at IS NULL AND b.next_batch_at <= clock_timestamp())
         ORDER BY c.reader_deadline NULLS FIRST, c.id
         LIMIT 1
           FOR UPDATE OF c SKIP LOCKED)
    RETURNING s.id, s.reader_token
$$;

-- Ends a lease, if it is still had. The source is not leased again for so many seconds: where it cannot be read.
CREATE OR REPLACE FUNCTION embedmill.release_record_source(
    p_source_id integer, p_reader_token bigint, p_rest_seconds double precision)
RETURNS void
LANGUAGE sql AS $$
    UPDATE embedmill.record_sources
       SET reader_id = NULL, reader_token = NULL,
           reader_deadline = clock_timestamp() + make_interval(secs => p_rest_seconds)
     WHERE id = p_source_id AND reader_token = p_reader_token
$$;

-- Holds a source to the end of the transaction, and its lease for longer. False where the lease is over or the source
-- was paused: nothing may be written then. p_reader_token NULL: of whoever needs no lease (an audit's repair).
CREATE OR REPLACE FUNCTION embedmill.hold_record_source(
    p_source_id integer, p_reader_token bigint, p_lease_seconds double precision)
RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM embedmill.record_sources WHERE id = p_source_id FOR NO KEY UPDATE;
    IF p_reader_token IS NULL THEN
        RETURN FOUND;
    END IF;
    UPDATE embedmill.record_sources
       SET reader_deadline = clock_timestamp() + make_interval(secs => p_lease_seconds)
     WHERE id = p_source_id AND reader_token = p_reader_token AND paused_at IS NULL;
    RETURN FOUND;
END
$$;

-- Takes away change rows that were read (without a truncation among them), and moves the number of rows by what they
-- say: by those that the full count had not counted already.
CREATE OR REPLACE FUNCTION embedmill.take_record_changes(p_source_id integer, p_change_ids bigint[]) RETURNS void
LANGUAGE sql AS $$
    WITH taken AS (
        DELETE FROM embedmill.record_changes WHERE record_source_id = p_source_id AND id = ANY (p_change_ids)
        RETURNING operation, cardinality(keys) AS keys, xact
    )
    UPDATE embedmill.record_sources s
       SET rows = greatest(s.rows + n.rows, 0)
      FROM (SELECT coalesce(sum(CASE t.operation WHEN 'I' THEN t.keys WHEN 'D' THEN -t.keys ELSE 0 END), 0)::bigint AS rows
              FROM taken t
              LEFT JOIN embedmill.table_sources o ON o.record_source_id = p_source_id
             WHERE o.counted_at IS NULL OR NOT pg_visible_in_snapshot(t.xact, o.counted_at)) n
     WHERE s.id = p_source_id AND n.rows <> 0
$$;

-- Rows are counted anew. Where the condition fails on one of them there is no number: the old one stays until a person
-- has mended that (check_table_source says so), and the source is read meanwhile.
CREATE OR REPLACE FUNCTION embedmill.recount_record_source(p_source_id integer) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM embedmill.count_table_source(p_source_id);
EXCEPTION WHEN data_exception OR raise_exception THEN
    NULL;
END
$$;

-- A truncation that was read, of the table or of a part of it.
CREATE OR REPLACE FUNCTION embedmill.take_truncation(p_source_id integer, p_change_id bigint) RETURNS void
LANGUAGE sql AS $$
    DELETE FROM embedmill.record_changes WHERE record_source_id = p_source_id AND id = p_change_id;
    SELECT embedmill.recount_record_source(p_source_id)
$$;

-- Begins the walk over a source's rows at the first, without limits, whatever it was at. p_rereads: also rows that have
-- their document are read, since their text may be another now.
CREATE OR REPLACE FUNCTION embedmill.begin_walk(p_record_source_id integer, p_rereads boolean) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO embedmill.backfills AS b (record_source_id, tenant_id, started_at, rereads)
    SELECT id, tenant_id, clock_timestamp(), p_rereads FROM embedmill.record_sources WHERE id = p_record_source_id
    ON CONFLICT (record_source_id) DO UPDATE
       SET started_at = excluded.started_at, ended_at = NULL, end_reason = NULL, after_key = NULL,
           rereads = excluded.rereads OR b.rereads AND b.ended_at IS NULL, rows_walked = 0, rows_read = 0,
           rows_left = NULL, batches_left = NULL, ends_before = NULL, budget_usd = NULL, spent_usd_before = NULL,
           next_batch_at = excluded.started_at
$$;

-- A change of which a trigger could not even tell the keys: all rows are to be looked at again, by a walk.
CREATE OR REPLACE FUNCTION embedmill.take_blind_change(p_source_id integer, p_change_id bigint) RETURNS void
LANGUAGE sql AS $$
    DELETE FROM embedmill.record_changes WHERE record_source_id = p_source_id AND id = p_change_id;
    SELECT embedmill.begin_walk(p_source_id, true);
    SELECT embedmill.recount_record_source(p_source_id)
$$;

-- Voids the leases on the items of documents whose chunks are about to be replaced: a worker that holds one writes
-- nothing more of it. Called with the documents' rows locked.
CREATE OR REPLACE FUNCTION embedmill.reclaim_items(p_document_ids bigint[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_ids bigint[] := ARRAY(SELECT id FROM embedmill.embedding_queue
                             WHERE document_id = ANY (p_document_ids) ORDER BY id FOR UPDATE);
BEGIN
    UPDATE embedmill.embedding_queue
       SET status = 'pending', lease_token = NULL, lease_deadline = NULL, worker_id = NULL
     WHERE id = ANY (v_ids) AND status = 'processing';
END
$$;

-- Removes documents of records with all that was made of them. Called with their rows locked.
CREATE OR REPLACE FUNCTION embedmill.delete_records(p_document_ids bigint[], p_message text) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_ids bigint[] := ARRAY(SELECT id FROM embedmill.embedding_queue
                             WHERE document_id = ANY (p_document_ids) ORDER BY id FOR UPDATE);
BEGIN
    PERFORM embedmill.end_items(v_ids, 'cancelled', p_message, NULL);
    UPDATE embedmill.dead_letters SET resolved_at = now(), resolution = 'discarded'
     WHERE document_id = ANY (p_document_ids) AND resolved_at IS NULL;
    DELETE FROM embedmill.knowledge_documents WHERE id = ANY (p_document_ids);
END
$$;

-- How much of a pipeline's live generation waits already, counted up to a bound: what is read beyond it would only lie
-- in the queue. What waits to be read itself does not count.
CREATE OR REPLACE FUNCTION embedmill.count_waiting(p_generation_id integer, p_most integer) RETURNS integer
LANGUAGE sql STABLE SET enable_seqscan = off SET jit = off AS $$
    SELECT sum(n.items)::integer
      FROM unnest(enum_range(NULL::embedmill.queue_priority)) AS lane (priority)
     CROSS JOIN LATERAL (
        SELECT count(*) AS items FROM (
            SELECT FROM embedmill.embedding_queue q
             WHERE q.generation_id = p_generation_id AND q.priority = lane.priority
               AND q.status IN ('pending', 'rate_limited') AND q.available_at < 'infinity'
             ORDER BY q.available_at, q.id LIMIT p_most) w
        UNION ALL
        -- Parked by a budget, or waiting to be read: so many are looked at and no more.
        SELECT count(*) FILTER (WHERE NOT w.is_unread) FROM (
            SELECT embedmill.waits_to_be_read(q) AS is_unread FROM embedmill.embedding_queue q
             WHERE q.generation_id = p_generation_id AND q.priority = lane.priority
               AND q.status IN ('pending', 'rate_limited') AND q.available_at = 'infinity'
             ORDER BY q.available_at, q.id LIMIT p_most) w) n
$$;
