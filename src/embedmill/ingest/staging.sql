-- name: stage_job
-- The job of an upload and its document; the one that stands, where these bytes are known.
SELECT job_id, document_id, status::text, is_known
  FROM embedmill.stage_job(
    %(job_id)s, %(pipeline_id)s, %(source_type)s, %(source_id)s, %(name)s, %(media_type)s, %(size_bytes)s,
    %(content_hash)s, %(original_key)s, %(original_url)s, %(priority)s, %(batch_id)s, %(metadata)s::jsonb,
    %(user_id)s, %(auto_launch)s, %(chunk_tokens)s, %(chunk_overlap)s, %(budget_usd)s::numeric);

-- name: stage_failure
-- A job that tells why an upload could not be kept; returns its document.
SELECT embedmill.stage_failure(
    %(job_id)s, %(pipeline_id)s, %(source_type)s, %(source_id)s, %(name)s, %(batch_id)s, %(priority)s,
    %(metadata)s::jsonb, %(user_id)s, %(stage)s, %(reason)s, %(error_message)s);

-- name: claim_parsing
-- Jobs for this worker to parse, with a lease each.
SELECT job_id, lease_token, attempts, pipeline_id, document_id, source_type, source_id, name, media_type, size_bytes,
       content_hash, original_key, original_url, chunk_tokens, chunk_overlap, metadata, status::text
  FROM embedmill.claim_parsing(%(worker_id)s, %(limit)s, %(lease_seconds)s);

-- name: hold_parsing
-- Whether the lease still stands; locks the document.
SELECT embedmill.hold_parsing(%(job_id)s, %(lease_token)s);

-- name: end_parsing
-- The preview of a job is ready. Returns how it is to be launched.
SELECT auto_launch, batch_id, priority::text
  FROM embedmill.end_parsing(%(job_id)s, %(total_chunks)s, %(total_tokens)s, %(cost_usd)s);

-- name: fail_parsing
-- The document cannot be read.
SELECT embedmill.fail_parsing(%(job_id)s, %(lease_token)s, %(stage)s, %(reason)s, %(error_message)s);

-- name: keep_original
-- What was fetched stands in the store.
SELECT embedmill.keep_original(%(job_id)s, %(lease_token)s, %(original_key)s, %(name)s, %(media_type)s,
                               %(size_bytes)s, %(content_hash)s);

-- name: return_parsing
-- Another try later.
SELECT embedmill.return_parsing(%(job_id)s, %(lease_token)s, %(attempts)s, %(delay_ms)s, %(stage)s, %(error_message)s);

-- name: leave_parsing
-- A job that was embedded directly is done with.
SELECT embedmill.leave_parsing(%(job_id)s, %(lease_token)s);

-- name: dispatch_job
-- Hands a job to the parsers (again).
SELECT embedmill.dispatch_job(%(job_id)s);

-- name: rescue_parsing
-- Frees the jobs of dead parsers.
SELECT embedmill.rescue_parsing();

-- name: supersede
-- What was under way for the older content stops here, and so do the jobs before this one.
SELECT embedmill.cancel_document_items(%(document_id)s, 'superseded by newer content', %(job_id)s);
