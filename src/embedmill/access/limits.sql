-- name: requests_per_minute
-- A tenant's own limit; NULL: the default.
SELECT requests_per_minute FROM embedmill.tenants WHERE id = %(tenant_id)s;
