-- name: hold_items
-- Locks what is still held by these tokens, and says which of it somebody wants to stop.
SELECT item_id, is_cancelled FROM embedmill.hold_items_heeding_cancels(%(item_ids)s, %(lease_tokens)s);

-- name: return_stray_items
-- Gives back what this worker holds without knowing.
SELECT embedmill.return_stray_items(%(worker_id)s, %(generation_id)s, %(known)s::bigint[]);

-- name: load_chunks
-- The chunks of claimed items that still need a vector; with them, at no query of its own, whether the tenant has
-- any budget.
SELECT item_id, chunk_id, token_count, content_hash, text,
       (SELECT EXISTS (SELECT FROM embedmill.budgets b WHERE b.tenant_id = %(tenant_id)s))
  FROM embedmill.load_chunks(%(generation_id)s, %(item_ids)s);

-- name: find_donors
-- Chunks of the tenant that have the same text, and the generation of the same recipe with its vector.
SELECT content_hash, donor, donor_generation_id FROM embedmill.find_donors(%(generation_id)s, %(content_hashes)b);

-- name: donate_vectors
-- Copies vectors of the same text within the tenant: paid once. Skips donors that went meanwhile.
SELECT embedmill.donate_vectors(%(generation_id)s, %(donor_generation_id)s, %(chunk_ids)s::bigint[], %(donors)s::bigint[]);

-- name: standing_vectors
-- Which of these chunks have a vector already.
SELECT chunk_id FROM {vectors} WHERE chunk_id = ANY (%(chunk_ids)s);

-- name: record_usage
-- One row of the ledger for each call to a provider; a repeated write of the same call changes nothing.
INSERT INTO embedmill.llm_usage_log
    (tenant_id, pipeline_id, generation_id, worker_id, call_id, session_id, user_id, usage_type, action, provider,
     model, inputs, input_tokens, latency_ms, cost_usd, error)
VALUES (%(tenant_id)s, %(pipeline_id)s, %(generation_id)s, %(worker_id)s, %(call_id)s, %(session_id)s,
        (SELECT j.user_id FROM embedmill.ingestion_jobs j WHERE j.id = %(session_id)s), %(usage_type)s, 'embed', %(provider)s, %(model)s, %(inputs)s, %(input_tokens)s, %(latency_ms)s,
        %(cost_usd)s, %(error)s)
ON CONFLICT (call_id) DO NOTHING;

-- name: is_recorded
-- Whether a call was committed, when the answer to COMMIT was lost; and whether vectors of this generation are for
-- columns of users' tables.
SELECT EXISTS (SELECT FROM embedmill.llm_usage_log WHERE call_id = %(call_id)s),
       EXISTS (SELECT FROM embedmill.target_columns WHERE generation_id = %(generation_id)s);

-- name: reserve_budget
-- Reserves what a call may cost; rows say which budgets have no room.
SELECT budget_id, job_id, verdict, limit_usd, spent_usd
  FROM embedmill.reserve_budget(%(tenant_id)s, %(worker_id)s, %(call_id)s, %(amount)s, %(jobs)s::uuid[],
                                %(amounts)s::numeric[]);

-- name: settle_budget
-- What a call did cost, in place of what it had reserved.
SELECT embedmill.settle_budget(%(tenant_id)s, %(call_id)s, %(amount)s, %(jobs)s::uuid[], %(amounts)s::numeric[]);

-- name: park_budget
-- What waits on a budget that is reached waits without an end; how many items.
SELECT embedmill.park_budget(%(budget_id)s, %(amount)s, %(jobs)s::uuid[], %(limit)s);

-- name: advance_items
-- Tokens so far and a later deadline for items that have more chunks to come.
SELECT embedmill.advance_items(%(item_ids)s, %(tokens)s, %(lease_seconds)s);

-- name: advance_jobs
-- The share of each ingestion job in what was just written.
SELECT embedmill.advance_jobs(%(jobs)s::uuid[], %(embedded)s::integer[], %(reused)s::integer[],
                              %(failed)s::integer[], %(tokens)s::bigint[], %(costs)s::numeric[]);

-- name: count_chunks
-- Coverage by counters, never by scans.
SELECT embedmill.count_chunks(%(generation_id)s, %(embedded)s::bigint[], %(refused)s::bigint[]);

-- name: bury_chunks
-- Chunks that the provider refuses for good; returns those that were not marked before.
SELECT embedmill.bury_chunks(%(generation_id)s, %(item_ids)s, %(chunk_ids)s, %(reason)s, %(error_message)s);
