-- name: identify
-- Which database this is, the same for all services on it and after a restore; and whether we see the rows of every
-- tenant, without which every original would seem to be nobody's.
SELECT md5((SELECT min(extract(epoch FROM applied_at))::text FROM embedmill.schema_migrations) || current_database()),
       pg_has_role(current_user, (SELECT relowner FROM pg_class WHERE oid = 'embedmill.ingestion_jobs'::regclass), 'USAGE');

-- name: select_unnamed
-- Those of these originals that no job names. By the index ingestion_jobs_original.
SELECT k FROM unnest(%(keys)s::text[]) AS k
 WHERE NOT EXISTS (SELECT FROM embedmill.ingestion_jobs j WHERE j.original_key = k);

-- name: forget_originals
-- Originals past their retention: no job names them from now on. A bounded number, so that no transaction is long.
SELECT embedmill.forget_originals(%(limit)s);
