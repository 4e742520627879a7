-- name: act_as
-- Who acts, for the audit log of this transaction.
SELECT set_config('embedmill.actor', %(actor)s, true);

-- name: set_budget
-- Sets, raises or lowers; see functions/53_budget_setting.sql.
SELECT embedmill.set_budget(%(tenant_id)s, %(job_id)s, %(period)s, %(limit_usd)s);

-- name: remove_budget
-- Whether there was one.
SELECT embedmill.remove_budget(%(tenant_id)s, %(job_id)s);

-- name: release_budget
-- What waited on it and need not any more goes on; how many items.
SELECT embedmill.release_budget(%(tenant_id)s, %(job_id)s);

-- name: find_budget
-- A budget as it stands now: a month that is over counts no more. With it the tenant's pipelines whose price is not
-- known, so that what they spend is not counted.
SELECT b.job_id, b.period, b.limit_usd, CASE WHEN s.is_over THEN 0 ELSE b.spent_usd END, b.reserved_usd,
       CASE WHEN embedmill.is_reached(b, now()) THEN b.reached_at END,
       ARRAY(SELECT p.name FROM embedmill.pipelines p
              WHERE p.tenant_id = b.tenant_id AND p.price_per_million_tokens IS NULL AND b.job_id IS NULL ORDER BY 1)
  FROM embedmill.budgets b
 CROSS JOIN LATERAL (
    SELECT b.period = 'month' AND b.period_start < embedmill.month_begin(now()) AS is_over) s
 WHERE b.tenant_id = %(tenant_id)s AND b.job_id IS NOT DISTINCT FROM %(job_id)s;
