-- name: load_chunks
-- The next chunks of a document that lack their vector; with them whether the tenant has any budget.
SELECT chunk_id, ordinal, token_count, content_hash, text,
       (SELECT EXISTS (SELECT FROM embedmill.budgets b WHERE b.tenant_id = %(tenant_id)s))
  FROM embedmill.load_document_chunks(%(generation_id)s, %(document_id)s, %(first_ordinal)s, %(limit)s);

-- name: document_version
-- Which content a document has.
SELECT version FROM embedmill.knowledge_documents WHERE id = %(document_id)s;

-- name: is_wanted
-- Whether a job is to go on: it was not cancelled.
SELECT status = 'embedding_in_progress' FROM embedmill.ingestion_jobs WHERE id = %(job_id)s;

-- name: lock_document
-- The content it has, held to the end of the transaction: nobody changes its chunks meanwhile.
SELECT version FROM embedmill.knowledge_documents WHERE id = %(document_id)s FOR UPDATE;

-- name: advance_job
-- The job's share; whether to go on.
SELECT embedmill.advance_direct_job(%(job_id)s, %(embedded)s, %(reused)s, %(failed)s, %(tokens)s, %(cost)s);

-- name: end_job
-- Completed if nothing is lacking, failed else.
SELECT embedmill.end_direct_job(%(document_id)s, %(job_id)s, %(message)s);
