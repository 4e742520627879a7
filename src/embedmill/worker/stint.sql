-- name: sources
-- The sources of a tenant (of one of its pipelines) that may be read.
SELECT s.id FROM embedmill.record_sources s
  JOIN embedmill.pipelines p ON p.id = s.pipeline_id
 WHERE s.tenant_id = %(tenant_id)s AND s.paused_at IS NULL
   AND (%(pipeline_id)s::integer IS NULL OR s.pipeline_id = %(pipeline_id)s)
   AND (EXISTS (SELECT FROM embedmill.record_changes r WHERE r.record_source_id = s.id)
        OR EXISTS (SELECT FROM embedmill.backfills b
                    WHERE b.record_source_id = s.id AND b.started_at IS NOT NULL AND b.ended_at IS NULL))
 ORDER BY s.id;

-- name: ready_generations
-- The generations of a tenant (of one of its pipelines) that have something to claim now.
SELECT r.generation_id
  FROM embedmill.ready_generations() AS r
  JOIN embedmill.generations g ON g.id = r.generation_id
 WHERE g.tenant_id = %(tenant_id)s AND (%(pipeline_id)s::integer IS NULL OR g.pipeline_id = %(pipeline_id)s);
