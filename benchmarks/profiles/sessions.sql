-- name: active
-- Who is at work, and what it waits for. Idle sessions, the server's own processes (their state is NULL) and those that
-- look are left out; a COPY in which the client is silent is active, and waits for it.
SELECT query, CASE WHEN wait_event IS NULL THEN 'CPU' ELSE wait_event_type || ' ' || wait_event END
  FROM pg_stat_activity
 WHERE state = 'active' AND pid <> pg_backend_pid() AND application_name <> %(onlooker)s;
