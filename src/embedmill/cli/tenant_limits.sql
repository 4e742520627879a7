-- name: read
-- The service's limits of tenants; NULL: those of the settings.
SELECT slug, requests_per_minute, max_file_bytes, max_staged_jobs FROM embedmill.tenants
 WHERE %(slug)s::text IS NULL OR slug = %(slug)s::text;

-- name: lock
-- What holds for a tenant, to the end of the transaction.
SELECT requests_per_minute, max_file_bytes, max_staged_jobs FROM embedmill.tenants WHERE slug = %(slug)s FOR UPDATE;

-- name: set
-- What holds from now on; service processes look every ten seconds.
UPDATE embedmill.tenants
   SET requests_per_minute = %(requests_per_minute)s, max_file_bytes = %(max_file_bytes)s,
       max_staged_jobs = %(max_staged_jobs)s
 WHERE slug = %(slug)s;
