-- name: summarize
-- The sum of all, then those of the groups.
SELECT group_name, calls, failed_calls, inputs, input_tokens, output_tokens, total_tokens, cost_usd,
       unknown_cost_calls, latency_ms_average
  FROM embedmill.summarize_usage(%(tenant_id)s::integer, %(group_by)s, %(since)s::timestamptz,
                                 %(until)s::timestamptz, %(time_zone)s)
 ORDER BY is_total DESC, CASE WHEN %(group_by)s = 'day' THEN group_name END DESC NULLS LAST, total_tokens DESC,
          calls DESC, group_name
 LIMIT %(limit)s::bigint + 1;
