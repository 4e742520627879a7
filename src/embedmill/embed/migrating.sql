-- name: start_build
-- The next generation, which is built from now on.
SELECT embedmill.start_build(%(pipeline_id)s, %(spec)s::jsonb, %(dimensions)s, %(storage)s, %(chunk_tokens)s,
                             %(chunk_overlap)s, %(price)s::numeric, %(budget_usd)s::numeric);

-- name: go_on
-- A build that was stopped goes on; a budget that is given holds from now on.
UPDATE embedmill.generations
   SET build_stopped_reason = NULL, budget_usd = coalesce(%(budget_usd)s::numeric, budget_usd)
 WHERE id = %(generation_id)s;

-- name: stop_build
-- A build that is to go on no more.
UPDATE embedmill.generations SET build_stopped_reason = %(reason)s
 WHERE id = %(generation_id)s AND build_ended_at IS NULL;

-- name: generations
-- All generations of a pipeline, with what stands and what it cost. What waits is known from counts.
SELECT g.id, g.number, g.id = p.current_generation_id, g.spec::text, g.dimensions, g.storage, g.chunk_set, g.chunk_tokens,
       g.chunk_overlap, g.price_per_million_tokens, g.budget_usd, coalesce(k.chunks, 0), coalesce(k.embedded, 0),
       coalesce(k.unembeddable, 0),
       embedmill.live_items(g.id),
       (SELECT count(*) FROM (SELECT FROM embedmill.stale_cuts m
                               WHERE m.pipeline_id = p.id AND m.chunk_set = g.chunk_set LIMIT 10000) w),
       (SELECT count(*) FROM (SELECT FROM embedmill.dead_letters l
                               WHERE l.generation_id = g.id AND l.resolved_at IS NULL LIMIT 10000) l),
       CASE WHEN g.build_started_at IS NULL OR g.build_ended_at IS NOT NULL THEN 1
            ELSE least(1, coalesce(g.build_after_document, 0)
                          / greatest(1, (SELECT max(d.id) FROM embedmill.knowledge_documents d))::float8) END,
       g.build_started_at, g.build_ended_at, g.build_stopped_reason, g.switched_at, c.cost_usd, c.tokens,
       g.comparison::text, g.created_at
  FROM embedmill.pipelines p
  JOIN embedmill.generations g ON g.pipeline_id = p.id
  LEFT JOIN embedmill.generation_coverage k ON k.generation_id = g.id
 CROSS JOIN LATERAL embedmill.generation_cost(g.id) AS c
 WHERE p.id = %(pipeline_id)s
 ORDER BY g.number;

-- name: count_generations
-- How many generations each pipeline of a tenant has.
SELECT pipeline_id, count(*) FROM embedmill.generations WHERE tenant_id = %(tenant_id)s GROUP BY pipeline_id;

-- name: switch
-- Searches read this generation from now on.
SELECT embedmill.switch_generation(%(generation_id)s);

-- name: retire
-- A generation that is to go gives its vectors to no other any more.
UPDATE embedmill.generations SET recipe_hash = 'retired' WHERE id = %(generation_id)s;

-- name: clear
-- Some of the items of a generation that is to go; how many there were.
SELECT embedmill.clear_generation(%(generation_id)s, %(limit)s);

-- name: drop
-- A generation goes.
SELECT embedmill.drop_generation(%(generation_id)s);

-- name: remove_unused_chunks
-- Chunks of plans that no generation has; where to go on, NULL at the end.
SELECT embedmill.remove_unused_chunks(%(pipeline_id)s, %(after)s, %(limit)s);

-- name: record_action
-- Who switched what.
SELECT embedmill.record_action(%(tenant_id)s, %(action)s, %(subject)s, %(before)s::jsonb, %(after)s::jsonb);

-- name: count_chunks_again
-- Documents say how many chunks they have by the live plan; the next of them, behind the last one that was looked at.
WITH next_documents AS (
    SELECT d.id, d.pipeline_id FROM embedmill.knowledge_documents d
     WHERE d.id > %(after)s ORDER BY d.id LIMIT %(limit)s
       FOR NO KEY UPDATE SKIP LOCKED     -- whoever holds one is about to say it himself
), counted AS (
    SELECT s.id, (SELECT count(*) FROM embedmill.knowledge_chunks c
                   WHERE c.document_id = s.id AND c.chunk_set = %(chunk_set)s) AS chunks
      FROM next_documents s WHERE s.pipeline_id = %(pipeline_id)s
), changed AS (
    UPDATE embedmill.knowledge_documents d SET chunk_count = n.chunks
      FROM counted n WHERE d.id = n.id AND d.chunk_count <> n.chunks
)
SELECT max(id) FROM next_documents;
