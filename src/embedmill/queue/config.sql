-- name: values
-- Every setting's value.
SELECT key, value FROM embedmill.embedding_queue_config;

-- name: settings
-- Every setting as a person sees it.
SELECT key, value, default_value, minimum, maximum, description,
       to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), updated_by
  FROM embedmill.embedding_queue_config ORDER BY key;

-- name: act_as
-- Who acts, for the audit log of this transaction.
SELECT set_config('embedmill.actor', %(actor)s, true);

-- name: set_value
-- Sets a value (NULL: the default); the one before.
SELECT embedmill.set_config_value(%(key)s, %(value)s::jsonb);
