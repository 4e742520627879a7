-- name: begin
-- Takes a key, or tells who has it: a request that never ended gives it up after a minute.
INSERT INTO embedmill.idempotency_keys AS k (tenant_id, key, request_hash)
VALUES (%(tenant_id)s, %(key)s, %(request_hash)s)
ON CONFLICT (tenant_id, key) DO UPDATE
   SET created_at = now()
 WHERE k.status_code IS NULL AND k.request_hash = excluded.request_hash AND k.created_at < now() - interval '1 minute'
RETURNING true;

-- name: find
-- What stands under a key.
SELECT request_hash, status_code, response::text
  FROM embedmill.idempotency_keys WHERE tenant_id = %(tenant_id)s AND key = %(key)s;

-- name: keep
-- The answer, for whoever asks the same again.
UPDATE embedmill.idempotency_keys SET status_code = 202, response = %(response)s::jsonb
 WHERE tenant_id = %(tenant_id)s AND key = %(key)s;

-- name: forget
-- It came to nothing: the key is free.
DELETE FROM embedmill.idempotency_keys
 WHERE tenant_id = %(tenant_id)s AND key = %(key)s AND status_code IS NULL;
