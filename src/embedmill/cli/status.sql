-- name: pipelines
-- Coverage of each pipeline, from counters.
SELECT p.name, k.chunks, k.embedded, k.unembeddable,
       (SELECT i.indisvalid FROM pg_index i
         WHERE i.indexrelid = to_regclass('embedmill.vectors_' || g.id || '_hnsw')),
       (SELECT count(*) FROM embedmill.knowledge_documents d WHERE d.pipeline_id = p.id),
       (SELECT count(*) FROM embedmill.knowledge_documents d
         WHERE d.pipeline_id = p.id AND d.error_reason IS NOT NULL)
  FROM embedmill.pipelines p
  JOIN embedmill.generations g ON g.id = p.current_generation_id
  JOIN embedmill.generation_coverage k ON k.generation_id = g.id
 WHERE p.tenant_id = %(tenant_id)s
 ORDER BY p.id;
