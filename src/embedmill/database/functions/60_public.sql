-- The public interface: what workers and programs in any language may call, from psql alone. Its names and
-- columns are kept from release to release; docs/reference/sql.md says how they go together.
--
--     heartbeat                        I live (also registers)
--     get_next_embedding_batch         claim: items, each with its lease token
--     get_embedding_inputs             the texts of a claimed item that have no vector yet
--     grant_quota                      before each call to the provider: 0, or milliseconds to wait
--     store_embeddings                 vectors, fenced by the token
--     complete_embedding_queue_item    done (verified) or failed (retried, then a dead letter)
--     handle_rate_limit                the provider said 429: no attempt is spent
--     stop_worker                      give back what is held, sign off

-- Says that a worker lives; registers it the first time. Also done by the functions below, so that only a worker
-- that is busy for longer than the interval between two of them need call it. A worker that is silent for two
-- intervals loses its items to others.
CREATE OR REPLACE FUNCTION embedmill.heartbeat(
    p_worker_id uuid, p_current_work text DEFAULT NULL, p_interval_ms integer DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF p_interval_ms < 100 THEN
        RAISE EXCEPTION 'p_interval_ms is 100 at least, not %', p_interval_ms USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Not at every word: a beat within the last tenth of the interval will do.
    PERFORM FROM embedmill.embedding_queue_workers
      WHERE worker_id = p_worker_id AND current_work IS NOT DISTINCT FROM p_current_work AND status = 'active'
        AND heartbeat_at > clock_timestamp() - make_interval(secs => heartbeat_interval_ms / 10000.0);
    IF FOUND THEN
        RETURN;
    END IF;
    UPDATE embedmill.embedding_queue_workers
       SET heartbeat_at = clock_timestamp(), stopped_at = NULL, current_work = p_current_work,
           status = CASE WHEN p_current_work IS NULL THEN 'idle' ELSE 'active' END::embedmill.worker_status
     WHERE worker_id = p_worker_id;
    IF NOT FOUND THEN
        INSERT INTO embedmill.embedding_queue_workers
            (worker_id, hostname, host_id, pid, pid_started_at, status, heartbeat_interval_ms, current_work, version)
        VALUES (p_worker_id, coalesce(host(inet_client_addr()), 'localhost'), 'sql', pg_backend_pid(), 0, 'active',
                coalesce(p_interval_ms, embedmill.config_integer('worker_heartbeat_interval_ms')), p_current_work, 'sql')
        ON CONFLICT (worker_id) DO NOTHING;
    END IF;
END
$$;

-- Claims up to p_batch_size items (NULL: the configured batch_size) of one pipeline: of the named one, else of
-- the tenant whose turn it is. No rows: nothing is ready. Each item carries the token that every later call
-- about it must show.
CREATE OR REPLACE FUNCTION embedmill.get_next_embedding_batch(
    p_worker_id uuid, p_batch_size integer DEFAULT NULL, p_pipeline text DEFAULT NULL, p_tenant text DEFAULT NULL)
RETURNS TABLE (
    item_id bigint, lease_token bigint, lease_deadline timestamptz, tenant text, pipeline text, quota_key text,
    source_type text, source_id text, operation embedmill.queue_operation, priority embedmill.queue_priority,
    document_id bigint, estimated_tokens integer, retry_count smallint, batch_id uuid, metadata jsonb)
LANGUAGE plpgsql AS $$
DECLARE
    v record;
    v_is_one boolean := false;
BEGIN
    IF p_batch_size < 1 THEN
        RAISE EXCEPTION 'a batch is of 1 item at least, not %', p_batch_size USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Where no worker of embedmill's own sweeps, somebody must.
    IF random() < 0.01 THEN
        PERFORM embedmill.fold_queue_changes();
    END IF;
    -- One pipeline needs no search for whose turn it is; tenants may each have one of the same name. What a claim must
    -- know is read at once, and whether the worker has to say again that it lives (heartbeat).
    FOR v IN
        SELECT g.id AS generation_id, t.slug, p.name, p.quota_key, w.worker_id IS NULL AS is_silent,
               coalesce(p_batch_size,
                        (SELECT c.value::integer FROM embedmill.embedding_queue_config c WHERE c.key = 'batch_size')
               ) AS items,
               (SELECT c.value::bigint FROM embedmill.embedding_queue_config c WHERE c.key = 'lease_seconds') AS seconds
          FROM embedmill.pipelines p
          JOIN embedmill.tenants t ON t.id = p.tenant_id
          JOIN embedmill.generations g ON g.pipeline_id = p.id
          LEFT JOIN embedmill.embedding_queue_workers w
            ON w.worker_id = p_worker_id AND w.status = 'active' AND w.current_work = p_pipeline
               AND w.heartbeat_at > clock_timestamp() - make_interval(secs => w.heartbeat_interval_ms / 10000.0)
         WHERE p.name = p_pipeline AND (p_tenant IS NULL OR t.slug = p_tenant)
           AND (p_tenant IS NOT NULL
                OR NOT EXISTS (SELECT FROM embedmill.pipelines o WHERE o.name = p_pipeline AND o.id <> p.id))
    LOOP
        IF v.is_silent AND NOT v_is_one THEN
            PERFORM embedmill.heartbeat(p_worker_id, p_pipeline);
        END IF;
        v_is_one := true;
        RETURN QUERY
        SELECT c.id, c.lease_token, c.lease_deadline, v.slug, v.name, v.quota_key, c.source_type, c.source_id,
               c.operation, c.priority, c.document_id, c.estimated_tokens, c.retry_count, c.batch_id, c.metadata
          FROM embedmill.claim_items(p_worker_id, v.generation_id, v.items, 9223372036854775807, 9223372036854775807,
                                     v.seconds) AS c
         ORDER BY c.priority, c.id;
        IF FOUND THEN
            RETURN;
        END IF;
    END LOOP;
    IF NOT v_is_one THEN
        PERFORM embedmill.heartbeat(p_worker_id, coalesce(p_pipeline, 'any pipeline'));
        FOR v IN
            SELECT r.generation_id
              FROM embedmill.ready_generations() WITH ORDINALITY AS r (generation_id, tenant_id, turn)
              JOIN embedmill.generations g ON g.id = r.generation_id
              JOIN embedmill.pipelines p ON p.id = g.pipeline_id
              JOIN embedmill.tenants t ON t.id = r.tenant_id
             WHERE (p_pipeline IS NULL OR p.name = p_pipeline) AND (p_tenant IS NULL OR t.slug = p_tenant)
             ORDER BY r.turn
        LOOP
            RETURN QUERY
            SELECT c.id, c.lease_token, c.lease_deadline, t.slug, p.name, p.quota_key, c.source_type, c.source_id,
                   c.operation, c.priority, c.document_id, c.estimated_tokens, c.retry_count, c.batch_id, c.metadata
              FROM embedmill.claim_items(
                       p_worker_id, v.generation_id,
                       coalesce(p_batch_size, embedmill.config_integer('batch_size')::integer),
                       9223372036854775807, 9223372036854775807, embedmill.config_integer('lease_seconds')) AS c
              JOIN embedmill.generations g ON g.id = c.generation_id
              JOIN embedmill.pipelines p ON p.id = g.pipeline_id
              JOIN embedmill.tenants t ON t.id = c.tenant_id
             ORDER BY c.priority, c.id;
            IF FOUND THEN
                RETURN;
            END IF;
        END LOOP;
    END IF;
    -- Nothing is ready: what the dead have left may be.
    IF embedmill.rescue_items('{}') > 0 THEN
        RETURN QUERY SELECT * FROM embedmill.get_next_embedding_batch(p_worker_id, p_batch_size, p_pipeline, p_tenant);
    END IF;
END
$$;

-- The texts of a claimed item that still need a vector, in order, each as the model must be sent it (the
-- pipeline's document prefix included). None where all stand, or somebody has cancelled its job: complete the item
-- then. Nothing for a lost lease.
CREATE OR REPLACE FUNCTION embedmill.get_embedding_inputs(p_item_id bigint, p_lease_token bigint)
RETURNS TABLE (chunk_id bigint, token_count integer, input text)
LANGUAGE sql STABLE AS $$
    SELECT l.chunk_id, l.token_count, coalesce(g.spec ->> 'document_prefix', '') || l.text
      FROM embedmill.embedding_queue q
      JOIN embedmill.generations g ON g.id = q.generation_id
     CROSS JOIN LATERAL embedmill.load_chunks(q.generation_id, ARRAY[q.id]) AS l
      JOIN embedmill.knowledge_chunks c ON c.id = l.chunk_id
     WHERE q.id = p_item_id AND q.lease_token = p_lease_token AND q.cancel_requested_at IS NULL
     ORDER BY c.ordinal
$$;

-- Writes vectors of a claimed item's chunks: p_embeddings[i], in pgvector's text form '[0.1,...]', belongs to
-- p_chunk_ids[i]. Returns how many were written; 0 for a lost lease, and nothing is written then. Chunks that
-- have their vector, or are not the item's, are passed over.
CREATE OR REPLACE FUNCTION embedmill.store_embeddings(
    p_item_id bigint, p_lease_token bigint, p_chunk_ids bigint[], p_embeddings text[])
RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    q embedmill.embedding_queue;
    g embedmill.generations;
    v_written bigint[];
BEGIN
    IF cardinality(p_chunk_ids) <> cardinality(p_embeddings) THEN
        RAISE EXCEPTION '% chunks and % embeddings: each chunk needs its own',
            cardinality(p_chunk_ids), cardinality(p_embeddings) USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF EXISTS (SELECT FROM unnest(p_embeddings) AS e WHERE e !~ '[1-9]') THEN
        -- It has no direction: no search by cosine would ever find it.
        RAISE EXCEPTION 'an embedding without any number but zero' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM embedmill.hold_items(ARRAY[p_item_id], ARRAY[p_lease_token]);
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    SELECT * INTO STRICT q FROM embedmill.embedding_queue WHERE id = p_item_id;
    SELECT * INTO STRICT g FROM embedmill.generations WHERE id = q.generation_id;
    EXECUTE format(
        'WITH written AS ('
        'INSERT INTO embedmill.%I (chunk_id, input_hash, embedding, document_id) '
        'SELECT c.id, substring(sha256(convert_to($4 || c.text, ''UTF8'')) FROM 1 FOR 16), e.embedding::%s(%s), c.document_id '
        '  FROM unnest($1, $2) AS e (chunk_id, embedding) '
        '  JOIN embedmill.knowledge_chunks c ON c.id = e.chunk_id '
        ' WHERE c.document_id = $3 AND c.ordinal BETWEEN $5 AND $6 AND c.chunk_set = $7 AND c.error_reason IS NULL '
        ' ORDER BY c.id '
        'ON CONFLICT (chunk_id) DO NOTHING RETURNING chunk_id) '
        'SELECT coalesce(array_agg(chunk_id), ''{}'') FROM written',
        'vectors_' || g.id, g.storage::regtype, g.dimensions)
    INTO v_written USING p_chunk_ids, p_embeddings, q.document_id, coalesce(g.spec ->> 'document_prefix', ''), q.first_ordinal,
          q.last_ordinal, g.chunk_set;
    PERFORM embedmill.advance_items(ARRAY[p_item_id], ARRAY[0], embedmill.config_integer('lease_seconds'));
    IF q.job_id IS NOT NULL THEN
        PERFORM embedmill.advance_jobs(ARRAY[q.job_id], ARRAY[cardinality(v_written)], ARRAY[0], ARRAY[0], ARRAY[0::bigint],
                                       ARRAY[0::numeric]);
    END IF;
    PERFORM embedmill.count_chunks(g.id, v_written, '{}');
    RETURN cardinality(v_written);
END
$$;

-- Ends a claimed item. p_success: every chunk must have its vector by now (a deletion is carried out here); else
-- the attempt failed with p_error_message, and the item is tried again later, with growing random waits, or
-- becomes a dead letter when its attempts are used up. p_actual_tokens, what the provider counted, go into the
-- usage ledger. Returns what became of it:
--     completed    pending (will be tried again)    failed (a dead letter)    lost (the lease is void)
--     cancelled (its job was, and vectors are lacking: nothing more is to be done)
CREATE OR REPLACE FUNCTION embedmill.complete_embedding_queue_item(
    p_item_id bigint, p_worker_id uuid, p_lease_token bigint, p_success boolean, p_actual_tokens integer DEFAULT 0,
    p_error_message text DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    q embedmill.embedding_queue;
    v_message text := coalesce(p_error_message, 'the worker gave no reason');
    v_dead bigint[];
BEGIN
    SELECT * INTO q FROM embedmill.embedding_queue WHERE id = p_item_id;
    IF q.operation = 'DELETE' AND p_success AND q.worker_id = p_worker_id THEN
        IF cardinality(embedmill.delete_claimed_documents(ARRAY[p_item_id], ARRAY[p_lease_token])) <> 1 THEN
            RETURN 'lost';
        END IF;
        PERFORM embedmill.count_worker_task(p_worker_id, q, false);
        RETURN 'completed';
    END IF;
    PERFORM embedmill.hold_items(ARRAY[p_item_id], ARRAY[p_lease_token]);
    IF NOT FOUND THEN
        RETURN 'lost';
    END IF;
    SELECT * INTO STRICT q FROM embedmill.embedding_queue WHERE id = p_item_id;
    IF q.worker_id <> p_worker_id THEN
        RETURN 'lost';
    END IF;
    PERFORM embedmill.record_item_usage(q, p_worker_id, coalesce(p_actual_tokens, 0),
                                        CASE WHEN NOT p_success THEN v_message END);
    IF p_success THEN
        IF cardinality(embedmill.complete_items(q.generation_id, ARRAY[p_item_id])) = 1 THEN
            IF q.job_id IS NOT NULL THEN
                PERFORM embedmill.advance_jobs(ARRAY[q.job_id], ARRAY[0], ARRAY[0], ARRAY[0], ARRAY[0::bigint],
                                               ARRAY[0::numeric]);
            END IF;
            PERFORM embedmill.count_worker_task(p_worker_id, q, false);
            RETURN 'completed';
        END IF;
        v_message := 'reported as done, but chunks of it have no vector: store_embeddings writes them';
    END IF;
    v_dead := embedmill.return_items(
        ARRAY[p_item_id], ARRAY[p_lease_token], 'pending', 1,
        (1000 + random() * least(300000, 1000 * 2 ^ least(q.retry_count + 1, 20)))::bigint, 'worker_failed', v_message);
    PERFORM embedmill.count_worker_task(p_worker_id, q, q.cancel_requested_at IS NULL);
    RETURN CASE WHEN q.cancel_requested_at IS NOT NULL THEN 'cancelled'
                WHEN cardinality(v_dead) = 1 THEN 'failed' ELSE 'pending' END;
END
$$;

-- The provider answered 429 (or names a wait): the item waits p_delay_ms (NULL: the configured
-- rate_limit_delay_ms) and spends no attempt; everybody on the same quota key holds back as long. Returns
-- rate_limited, lost, or cancelled (its job was: nothing more is to be done).
CREATE OR REPLACE FUNCTION embedmill.handle_rate_limit(
    p_item_id bigint, p_worker_id uuid, p_lease_token bigint, p_delay_ms bigint DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    q embedmill.embedding_queue;
    v_delay_ms bigint := least(greatest(coalesce(p_delay_ms, embedmill.config_integer('rate_limit_delay_ms')), 0),
                               86400000);
BEGIN
    PERFORM embedmill.hold_items(ARRAY[p_item_id], ARRAY[p_lease_token]);
    IF NOT FOUND THEN
        RETURN 'lost';
    END IF;
    SELECT * INTO STRICT q FROM embedmill.embedding_queue WHERE id = p_item_id;
    IF q.worker_id <> p_worker_id THEN
        RETURN 'lost';
    END IF;
    PERFORM embedmill.return_items(ARRAY[p_item_id], ARRAY[p_lease_token], 'rate_limited', 0, v_delay_ms,
                                   'rate_limited', 'the provider asked to wait');
    PERFORM embedmill.heartbeat(p_worker_id, 'rate limited');
    UPDATE embedmill.embedding_queue_workers SET rate_limits_hit = rate_limits_hit + 1 WHERE worker_id = p_worker_id;
    PERFORM embedmill.cool_down(
        (SELECT p.quota_key FROM embedmill.generations g JOIN embedmill.pipelines p ON p.id = g.pipeline_id
          WHERE g.id = q.generation_id), v_delay_ms, 'a worker was told to wait');
    RETURN CASE WHEN q.cancel_requested_at IS NULL THEN 'rate_limited' ELSE 'cancelled' END;
END
$$;

-- Completes the items of the batch before and claims the next one: one round trip and one commit where there would
-- be two. Of what is reported as done and is still held, what misses a vector has failed an attempt and is tried
-- again, as complete_embedding_queue_item does it; what was lost is passed over.
CREATE OR REPLACE FUNCTION embedmill.exchange_embedding_batch(
    p_worker_id uuid, p_done_item_ids bigint[], p_done_lease_tokens bigint[], p_batch_size integer DEFAULT NULL,
    p_pipeline text DEFAULT NULL, p_tenant text DEFAULT NULL)
RETURNS TABLE (
    item_id bigint, lease_token bigint, lease_deadline timestamptz, tenant text, pipeline text, quota_key text,
    source_type text, source_id text, operation embedmill.queue_operation, priority embedmill.queue_priority,
    document_id bigint, estimated_tokens integer, retry_count smallint, batch_id uuid, metadata jsonb)
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
SET enable_memoize = off SET jit = off
AS $$
DECLARE
    v_ended bigint[];
BEGIN
    v_ended := embedmill.finish_items(p_done_item_ids, p_done_lease_tokens);
    IF cardinality(v_ended) < cardinality(p_done_item_ids) THEN
        PERFORM embedmill.return_items(
            p_done_item_ids, p_done_lease_tokens, 'pending', 1, 1000, 'worker_failed',
            'reported as done, but chunks of it have no vector: store_embeddings writes them');
    END IF;
    -- One item of an open lane (26_lanes.sql), where no other generation or tenant has its turn to be asked for, and the
    -- worker need not say again that it lives: as claim_items does it. Whatever is not so plain goes the common way.
    IF p_batch_size = 1 THEN
        RETURN QUERY
        UPDATE embedmill.embedding_queue q
           SET status = 'processing', worker_id = p_worker_id, lease_token = nextval('embedmill.lease_tokens'),
               lease_deadline = now() + make_interval(secs => turn.lease_seconds),
               processing_started_at = now(), rate_limit_delay_ms = NULL
          FROM (SELECT i.place, lane.tenant, lane.pipeline, lane.quota_key, lane.lease_seconds
                  FROM (SELECT l.generation_id, l.priority, l.tenant, l.pipeline, l.quota_key, l.lease_seconds
                          FROM embedmill.claim_lanes l
                         CROSS JOIN LATERAL (
                            SELECT h.available_at FROM embedmill.embedding_queue h
                             WHERE h.generation_id = l.generation_id AND h.priority = l.priority
                               AND h.status IN ('pending', 'rate_limited') AND h.available_at <= now()
                             ORDER BY h.available_at, h.id LIMIT 1) head
                         WHERE l.pipeline = p_pipeline AND l.is_alone AND (p_tenant IS NULL OR l.tenant = p_tenant)
                           AND EXISTS (
                            SELECT FROM embedmill.embedding_queue_workers w
                             WHERE w.worker_id = p_worker_id AND w.status = 'active' AND w.current_work = p_pipeline
                               AND w.heartbeat_at
                                   > clock_timestamp() - make_interval(secs => w.heartbeat_interval_ms / 10000.0))
                         ORDER BY l.weight * (1 + date_part('epoch', now() - head.available_at) / l.aging_seconds) DESC,
                                  l.priority
                         LIMIT 1) lane
                 CROSS JOIN LATERAL (
                    SELECT r.ctid AS place FROM embedmill.embedding_queue r
                     WHERE r.generation_id = lane.generation_id AND r.priority = lane.priority
                       AND r.status IN ('pending', 'rate_limited') AND r.available_at <= now()
                     ORDER BY r.available_at, r.id
                     LIMIT 1
                       FOR UPDATE SKIP LOCKED) i) turn
         WHERE q.ctid = turn.place
        RETURNING q.id, q.lease_token, q.lease_deadline, turn.tenant, turn.pipeline, turn.quota_key, q.source_type,
                  q.source_id, q.operation, q.priority, q.document_id, q.estimated_tokens, q.retry_count, q.batch_id,
                  q.metadata;
        IF FOUND THEN
            IF random() < 0.01 THEN
                PERFORM embedmill.fold_queue_changes();
            END IF;
            RETURN;
        END IF;
    END IF;
    RETURN QUERY SELECT * FROM embedmill.get_next_embedding_batch(p_worker_id, p_batch_size, p_pipeline, p_tenant);
END
$$;

-- Enqueues a source for embedding, or for deletion (p_operation DELETE). The source is a document that embedmill
-- knows, by its type and id in the pipeline. Enqueueing again what waits merges: promoted, never demoted, the
-- newest version wins. Returns the items: none where every vector stands already, one for each 500 chunks else.
CREATE OR REPLACE FUNCTION embedmill.enqueue_embedding(
    p_source_type text, p_source_id text, p_operation embedmill.queue_operation DEFAULT 'UPDATE',
    p_priority embedmill.queue_priority DEFAULT 'medium', p_pipeline text DEFAULT 'default',
    p_tenant text DEFAULT 'default', p_metadata jsonb DEFAULT '{}', p_batch_id uuid DEFAULT NULL,
    p_max_retries integer DEFAULT NULL)
RETURNS SETOF bigint
LANGUAGE plpgsql AS $$
DECLARE
    d embedmill.knowledge_documents;
BEGIN
    IF p_max_retries NOT BETWEEN 0 AND 100 THEN
        RAISE EXCEPTION 'p_max_retries is from 0 to 100, not %', p_max_retries USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT k.* INTO d
      FROM embedmill.knowledge_documents k
      JOIN embedmill.pipelines p ON p.id = k.pipeline_id
      JOIN embedmill.tenants t ON t.id = p.tenant_id
     WHERE t.slug = p_tenant AND p.name = p_pipeline AND k.source_type = p_source_type AND k.source_id = p_source_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'tenant % has no source % % in pipeline %: ingest it first',
            p_tenant, p_source_type, p_source_id, p_pipeline USING ERRCODE = 'no_data_found';
    END IF;
    IF p_operation = 'DELETE' THEN
        RETURN NEXT embedmill.enqueue_deletion(d.id, p_batch_id, p_priority, p_metadata, p_max_retries);
        RETURN;
    END IF;
    IF d.error_reason IS NOT NULL THEN
        RAISE EXCEPTION '% % has no text to embed: %', p_source_type, p_source_id, d.error_message
            USING ERRCODE = 'no_data_found';
    END IF;
    RETURN QUERY
    SELECT e.item_id
      FROM embedmill.enqueue_document(d.id, NULL, p_batch_id, p_priority, 'internal_ingestion', p_metadata,
                                      p_max_retries) AS e
     ORDER BY e.item_id;
END
$$;

-- Gives back what a worker holds, for others to take at once, and signs it off. Returns how many items.
CREATE OR REPLACE FUNCTION embedmill.stop_worker(p_worker_id uuid) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_ids bigint[];
    v_tokens bigint[];
BEGIN
    SELECT array_agg(id), array_agg(lease_token) INTO v_ids, v_tokens
      FROM embedmill.embedding_queue WHERE worker_id = p_worker_id AND status = 'processing';
    PERFORM embedmill.return_items(v_ids, v_tokens, 'pending', 0, 0, 'stopped', NULL);
    UPDATE embedmill.embedding_queue_workers
       SET status = 'stopped', stopped_at = now(), current_work = NULL
     WHERE worker_id = p_worker_id;
    RETURN coalesce(cardinality(v_ids), 0);
END
$$;

-- The ledger's row of what a worker in another language was charged for an item, its job's share of it, and its
-- part of the budgets. Such a worker may ask reserve_budget before it calls; where none does, the sweep stops what a
-- budget has no more room for.
CREATE OR REPLACE FUNCTION embedmill.record_item_usage(
    q embedmill.embedding_queue, p_worker_id uuid, p_tokens integer, p_error text)
RETURNS void
LANGUAGE sql AS $$
    INSERT INTO embedmill.llm_usage_log
        (tenant_id, pipeline_id, generation_id, worker_id, call_id, session_id, user_id, usage_type, action, provider,
         model, inputs, input_tokens, latency_ms, cost_usd, error)
    SELECT q.tenant_id, p.id, g.id, p_worker_id, gen_random_uuid(), q.job_id,
           (SELECT j.user_id FROM embedmill.ingestion_jobs j WHERE j.id = q.job_id), q.usage_type, 'embed',
           g.spec ->> 'provider', g.spec ->> 'model', coalesce(q.last_ordinal - q.first_ordinal + 1, 0), p_tokens,
           extract(epoch FROM clock_timestamp() - q.processing_started_at) * 1000,
           p_tokens * g.price_per_million_tokens / 1000000, p_error
      FROM embedmill.generations g JOIN embedmill.pipelines p ON p.id = g.pipeline_id
     WHERE g.id = q.generation_id AND p_tokens > 0;
    UPDATE embedmill.embedding_queue SET actual_tokens = actual_tokens + p_tokens WHERE id = q.id AND p_tokens > 0;
    SELECT embedmill.advance_jobs(ARRAY[q.job_id], ARRAY[0], ARRAY[0], ARRAY[0], ARRAY[p_tokens::bigint],
                                  ARRAY[p_tokens * g.price_per_million_tokens / 1000000])
      FROM embedmill.generations g JOIN embedmill.pipelines p ON p.id = g.pipeline_id
     WHERE g.id = q.generation_id AND q.job_id IS NOT NULL AND p_tokens > 0;
    SELECT embedmill.settle_budget(q.tenant_id, gen_random_uuid(), p_tokens * g.price_per_million_tokens / 1000000,
                                   ARRAY[q.job_id], ARRAY[p_tokens * g.price_per_million_tokens / 1000000])
      FROM embedmill.generations g JOIN embedmill.pipelines p ON p.id = g.pipeline_id
     WHERE g.id = q.generation_id AND p_tokens > 0 AND g.price_per_million_tokens > 0
       AND EXISTS (SELECT FROM embedmill.budgets b WHERE b.tenant_id = q.tenant_id)
$$;

-- What a worker has done. Its row is locked after its items, here as everywhere but in a claim, which waits for no
-- item: two calls of one worker at once do not deadlock.
CREATE OR REPLACE FUNCTION embedmill.count_worker_task(p_worker_id uuid, q embedmill.embedding_queue, p_failed boolean)
RETURNS void
LANGUAGE sql AS $$
    SELECT embedmill.heartbeat(p_worker_id, 'completing');
    UPDATE embedmill.embedding_queue_workers
       SET tasks_processed = tasks_processed + (NOT p_failed)::integer, errors = errors + p_failed::integer,
           total_processing_ms = total_processing_ms
                               + (extract(epoch FROM clock_timestamp() - q.processing_started_at) * 1000)::bigint
     WHERE worker_id = p_worker_id
$$;
