-- name: tenant_slugs
-- What an operator may choose from.
SELECT slug FROM embedmill.tenants ORDER BY slug LIMIT 1000;
