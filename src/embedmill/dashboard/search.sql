-- name: words_found
-- Of these passages the words that the query's words have in common with them, by the rules of the pipeline's language:
-- between two marks that no text keeps (U+E000, U+E001).
SELECT c.id, ts_headline(%(config)s::regconfig, translate(left(c.text, 20000), U&'\E000\E001', ''), asked.q,
                         U&'StartSel=\E000, StopSel=\E001, HighlightAll=true')
  FROM (SELECT CASE WHEN e.q::text LIKE '%%!%%' THEN e.q ELSE replace(e.q::text, ' & ', ' | ')::tsquery END AS q
          FROM (SELECT websearch_to_tsquery(%(config)s::regconfig, %(words)s) AS q) e) asked,
       embedmill.knowledge_chunks c
 WHERE c.id = ANY (%(chunk_ids)s) AND numnode(asked.q) > 0;

-- name: homes
-- Where these documents come from: the upload's latest job, or the source of their records.
SELECT d.id, d.record_source_id,
       (SELECT j.id FROM embedmill.ingestion_jobs j WHERE j.document_id = d.id ORDER BY j.created_at DESC LIMIT 1)
  FROM embedmill.knowledge_documents d WHERE d.id = ANY (%(document_ids)s);

-- name: searchable
-- How much of a generation can be found: its chunks, and those of them that have vectors, from counters.
SELECT coalesce(sum(chunks), 0)::bigint, coalesce(sum(embedded), 0)::bigint
  FROM embedmill.coverage_counters WHERE generation_id = %(generation_id)s;
