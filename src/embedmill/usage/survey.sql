-- name: survey
-- All that a page shows of a span; see functions/44_usage_survey.sql.
SELECT what, day, group_name, calls, failed_calls, charged_failed_calls, inputs, input_tokens, output_tokens, cost_usd,
       failed_cost_usd, unknown_cost_calls, latency_ms_average
  FROM embedmill.survey_usage(%(tenant_id)s::integer, %(since)s::timestamptz, %(until)s::timestamptz, %(time_zone)s,
                              %(limit)s::integer);

-- name: cost_of_jobs
-- What the latest completed uploads of the span have cost, on average: of those whose cost is known. By index; so many
-- that the average means something.
SELECT count(*), avg(j.cost_usd), avg(j.embedded_chunks)
  FROM (SELECT cost_usd, embedded_chunks FROM embedmill.ingestion_jobs
         WHERE tenant_id = %(tenant_id)s AND status = 'completed' AND created_at >= %(since)s
           AND (%(until)s::timestamptz IS NULL OR created_at < %(until)s)
         ORDER BY created_at DESC LIMIT 1000) j
 WHERE j.cost_usd IS NOT NULL;

-- name: held_jobs
-- Jobs that a budget holds, the latest first: their own, or their tenant's (then without a budget here).
SELECT j.id, coalesce(j.original_name, d.name, j.id::text), j.updated_at, j.total_chunks, j.embedded_chunks, b.limit_usd, b.spent_usd,
       CASE WHEN embedmill.is_reached(b, now()) THEN b.reached_at END
  FROM embedmill.ingestion_jobs j
  LEFT JOIN embedmill.knowledge_documents d ON d.id = j.document_id
  LEFT JOIN embedmill.budgets b ON b.job_id = j.id
 WHERE j.tenant_id = %(tenant_id)s AND j.paused_reason = 'budget' AND j.status = 'embedding_in_progress'
 ORDER BY j.updated_at DESC LIMIT %(limit)s;

-- name: calls
-- Calls one by one, in the order of time, after the last one that was read: by the index of a tenant and a time.
SELECT l.id, l.created_at, t.slug, p.name, l.usage_type, l.action, l.provider, l.model, l.inputs, l.input_tokens,
       l.output_tokens, l.cost_usd, l.latency_ms, l.user_id, l.session_id, l.call_id, l.error
  FROM embedmill.llm_usage_log l
  LEFT JOIN embedmill.tenants t ON t.id = l.tenant_id
  LEFT JOIN embedmill.pipelines p ON p.id = l.pipeline_id
 WHERE l.tenant_id = %(tenant_id)s AND l.created_at >= %(after_at)s AND (l.created_at, l.id) > (%(after_at)s, %(after_id)s)
   AND (%(until)s::timestamptz IS NULL OR l.created_at < %(until)s)
 ORDER BY l.created_at, l.id LIMIT %(limit)s;

-- name: calls_of_all
-- The same of all tenants, in the order in which they were written: by number.
SELECT l.id, l.created_at, t.slug, p.name, l.usage_type, l.action, l.provider, l.model, l.inputs, l.input_tokens,
       l.output_tokens, l.cost_usd, l.latency_ms, l.user_id, l.session_id, l.call_id, l.error
  FROM embedmill.llm_usage_log l
  LEFT JOIN embedmill.tenants t ON t.id = l.tenant_id
  LEFT JOIN embedmill.pipelines p ON p.id = l.pipeline_id
 WHERE l.id > %(after_id)s AND l.created_at >= %(since)s
   AND (%(until)s::timestamptz IS NULL OR l.created_at < %(until)s)
 ORDER BY l.id LIMIT %(limit)s;

-- name: daily
-- Sums by day, tenant, pipeline, type and model: what an export of sums holds, from half hours where the zone allows it.
SELECT to_char(u.at AT TIME ZONE %(time_zone)s, 'YYYY-MM-DD'), t.slug, p.name, u.usage_type, u.provider, u.model,
       sum(u.calls)::bigint, sum(u.failed_calls)::bigint, sum(u.inputs)::bigint, sum(u.input_tokens)::bigint,
       sum(u.output_tokens)::bigint, sum(u.cost_usd), sum(u.unknown_cost_calls)::bigint,
       round(sum(u.latency_ms) / nullif(sum(u.calls), 0))::bigint
  FROM embedmill.usage_between(%(tenant_id)s::integer, %(since)s::timestamptz, %(until)s::timestamptz,
                               NOT embedmill.has_half_hour_days(%(time_zone)s, %(since)s::timestamptz,
                                                                %(until)s::timestamptz)) u
  LEFT JOIN embedmill.tenants t ON t.id = u.tenant_id
  LEFT JOIN embedmill.pipelines p ON p.id = u.pipeline_id
 GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6;
