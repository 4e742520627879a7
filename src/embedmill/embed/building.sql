-- name: unfinished_builds
-- Generations that are being built, and sets of chunks of which documents are to be cut anew.
SELECT g.id FROM embedmill.generations g
 WHERE g.build_started_at IS NOT NULL AND g.build_ended_at IS NULL AND g.build_stopped_reason IS NULL
   AND (%(pipeline_id)s::integer IS NULL OR g.pipeline_id = %(pipeline_id)s)
 ORDER BY g.id;

-- name: stale_sets
-- Sets of chunks of which documents are to be cut, and the generation whose plan and model they are cut by.
SELECT s.pipeline_id, s.chunk_set, s.generation_id
  FROM (SELECT g.pipeline_id, g.chunk_set, max(g.id) AS generation_id FROM embedmill.generations g
         WHERE %(pipeline_id)s::integer IS NULL OR g.pipeline_id = %(pipeline_id)s
         GROUP BY g.pipeline_id, g.chunk_set) s
 WHERE EXISTS (SELECT FROM embedmill.stale_cuts m
                WHERE m.pipeline_id = s.pipeline_id AND m.chunk_set = s.chunk_set)
 ORDER BY s.pipeline_id, s.chunk_set;

-- name: build_step
-- The next documents of the walk that builds a generation; what is to be done now.
SELECT embedmill.build_step(%(generation_id)s, %(window)s, %(documents)s);

-- name: try_lock_cutting
-- One cutter for each set of chunks: two would cut the same texts. Never waited for.
SELECT pg_try_advisory_lock(hashtext('embedmill cutting ' || %(pipeline_id)s), %(chunk_set)s);

-- name: stale_documents
-- Documents to be cut, with their text and what is known of its places.
SELECT document_id, version, record_source_id, media_type, title, is_markdown, places, chunk_places, body,
       is_whole
  FROM embedmill.stale_documents(%(pipeline_id)s, %(chunk_set)s, %(limit)s);

-- name: hold_cut_documents
-- Those whose text is still the one that was cut, locked, and their items taken from the workers.
SELECT embedmill.hold_cut_documents(%(document_ids)s::bigint[], %(versions)s::bigint[], %(chunk_set)s);

-- name: end_cut
-- Their chunks stand; how many of them are to be embedded.
SELECT embedmill.end_cut(%(pipeline_id)s, %(chunk_set)s, %(document_ids)s::bigint[]);

-- name: bury_cut
-- A text that could be read once and cannot be cut now is told, for each generation that lacks it.
INSERT INTO embedmill.dead_letters (tenant_id, generation_id, document_id, reason, error_message)
SELECT g.tenant_id, g.id, %(document_id)s, %(reason)s, %(message)s
  FROM embedmill.generations g WHERE g.pipeline_id = %(pipeline_id)s AND g.chunk_set = %(chunk_set)s;

-- name: stop_builds
-- Nothing of this set can be cut: whoever builds it must be told.
UPDATE embedmill.generations SET build_stopped_reason = %(reason)s
 WHERE pipeline_id = %(pipeline_id)s AND chunk_set = %(chunk_set)s AND build_started_at IS NOT NULL
   AND build_ended_at IS NULL;
