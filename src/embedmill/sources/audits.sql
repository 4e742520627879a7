-- name: scope
-- What a person named, as numbers; NULL where there is no such thing. Several sources of one name: the pipeline tells.
SELECT (SELECT array_agg(p.id) FROM embedmill.pipelines p
         WHERE p.tenant_id = %(tenant_id)s AND p.name = %(pipeline)s::text),
       (SELECT array_agg(s.id ORDER BY s.id) FROM embedmill.record_sources s
          JOIN embedmill.pipelines p ON p.id = s.pipeline_id
         WHERE s.tenant_id = %(tenant_id)s AND s.name = %(source)s::text
           AND (%(pipeline)s::text IS NULL OR p.name = %(pipeline)s));

-- name: begin
-- A new audit; with a holder it is carried out at once.
INSERT INTO embedmill.audits (tenant_id, pipeline_id, record_source_id, is_repair, progress, actor)
VALUES (%(tenant_id)s, %(pipeline_id)s, %(record_source_id)s, %(is_repair)s,
        jsonb_build_object('carrier', %(carrier)s::text, 'mends', %(mends)s::text, 'holder', %(holder)s::text,
                           'until', CASE WHEN %(holder)s::text IS NOT NULL THEN clock_timestamp() + interval '60 seconds' END),
        %(actor)s)
RETURNING id;

-- name: take
-- The oldest audit that was begun and is carried out by nobody: of the workers (any tenant's), or the command's own of
-- the same scope and of the last day.
UPDATE embedmill.audits
   SET progress = progress || jsonb_build_object('holder', %(holder)s::text,
                                                 'until', clock_timestamp() + interval '60 seconds')
 WHERE id = (
    SELECT id FROM embedmill.audits a
     WHERE a.ended_at IS NULL AND a.progress ->> 'carrier' = %(carrier)s
       AND coalesce((a.progress ->> 'until')::timestamptz, '-infinity') < clock_timestamp()
       AND a.started_at > now() - CASE WHEN %(carrier)s = 'worker' THEN interval '7 days' ELSE interval '1 day' END
       AND (%(carrier)s = 'worker'
            OR a.tenant_id = %(tenant_id)s AND a.is_repair = %(is_repair)s
               AND a.pipeline_id IS NOT DISTINCT FROM %(pipeline_id)s
               AND a.record_source_id IS NOT DISTINCT FROM %(record_source_id)s)
     ORDER BY a.id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id;

-- name: audits
-- Audits of a tenant, newest first; or one.
SELECT a.id, a.tenant_id, a.pipeline_id, a.record_source_id, p.name, s.name, a.started_at, a.ended_at, a.is_repair,
       a.findings::text, a.progress::text, a.actor
  FROM embedmill.audits a
  LEFT JOIN embedmill.pipelines p ON p.id = a.pipeline_id
  LEFT JOIN embedmill.record_sources s ON s.id = a.record_source_id
 WHERE (%(tenant_id)s::integer IS NULL OR a.tenant_id = %(tenant_id)s) AND (%(id)s::bigint IS NULL OR a.id = %(id)s)
 ORDER BY a.id DESC LIMIT %(limit)s;

-- name: save
-- How far it has come, as long as it is still ours.
UPDATE embedmill.audits
   SET findings = %(findings)s::jsonb,
       progress = progress || %(progress)s::jsonb
               || jsonb_build_object('until', clock_timestamp() + interval '60 seconds')
 WHERE id = %(id)s AND progress ->> 'holder' = %(holder)s AND ended_at IS NULL
RETURNING id;

-- name: release
-- Nobody carries it out now.
UPDATE embedmill.audits SET progress = progress - 'holder' - 'until'
 WHERE id = %(id)s AND progress ->> 'holder' = %(holder)s;

-- name: end
UPDATE embedmill.audits SET ended_at = clock_timestamp(), progress = progress - 'holder' - 'until'
 WHERE id = %(id)s AND progress ->> 'holder' = %(holder)s
RETURNING id;

-- name: order_due
SELECT embedmill.order_due_audits();
