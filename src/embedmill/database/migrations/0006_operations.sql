-- What operators need: a role above a tenant's admin, alerts, retention.

-- Operators: whoever runs the installation sees every tenant and changes what is the whole fleet's.
ALTER TYPE embedmill.api_role ADD VALUE IF NOT EXISTS 'operator';

-- (alerts) What needs attention, for those who have no other watch. One that is open for each kind, tenant and subject;
-- what is raised again later is a new row. functions/57_alert_signs.sql says what is looked for, 58_alerts.sql raises.
CREATE TABLE embedmill.alerts (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind             text NOT NULL,               -- stuck_queue, no_workers, budget_reached, ...
    tenant_id        integer REFERENCES embedmill.tenants ON DELETE CASCADE,    -- NULL: the installation's
    subject          text NOT NULL,               -- pipeline, source, quota key, ...; '' where there is one only
    severity         text NOT NULL CHECK (severity IN ('warning', 'critical')),
    message          text NOT NULL,               -- what is so, since when, and what to do next
    numbers          jsonb NOT NULL DEFAULT '{}', -- that led to it
    began_at         timestamptz NOT NULL,        -- since when it is so
    raised_at        timestamptz NOT NULL,
    seen_at          timestamptz NOT NULL,        -- when it was so last
    resolved_at      timestamptz,
    acknowledged_at  timestamptz,
    acknowledged_by  text,
    silenced_until   timestamptz,                 -- NULL: until it is resolved
    told_severity    text,                        -- as which it was told to streams and webhooks; NULL: not told
    is_end_told      boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX alerts_open ON embedmill.alerts (coalesce(tenant_id, 0), kind, subject) WHERE resolved_at IS NULL;
CREATE INDEX alerts_ended ON embedmill.alerts (coalesce(tenant_id, 0), id) WHERE resolved_at IS NOT NULL;
CREATE INDEX alerts_age ON embedmill.alerts (resolved_at) WHERE resolved_at IS NOT NULL;
CREATE INDEX alerts_untold ON embedmill.alerts (id) WHERE resolved_at IS NULL OR NOT is_end_told;

-- (alerts) What is so now, before it has been so for long enough; also what only a process can see, which reports it.
CREATE TABLE embedmill.alert_signs (
    kind         text NOT NULL,
    tenant_id    integer REFERENCES embedmill.tenants ON DELETE CASCADE,
    subject      text NOT NULL,
    severity     text NOT NULL,
    message      text NOT NULL,
    numbers      jsonb NOT NULL,
    began_at     timestamptz NOT NULL,
    seen_at      timestamptz NOT NULL,
    is_reported  boolean NOT NULL DEFAULT false   -- by a process, and not by a look at the tables
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX alert_signs_one ON embedmill.alert_signs (coalesce(tenant_id, 0), kind, subject);

-- (alerts) How it was a while ago, every five minutes for a day: to see what falls, and what fails of late.
CREATE TABLE embedmill.queue_samples (
    generation_id  integer NOT NULL REFERENCES embedmill.generations ON DELETE CASCADE,
    sampled_at     timestamptz NOT NULL,
    tenant_id      integer NOT NULL,
    day            date NOT NULL,                 -- of the sample, UTC: what had ended on this day until then
    completed      bigint NOT NULL,
    failed         bigint NOT NULL,
    PRIMARY KEY (generation_id, sampled_at)
);
CREATE TABLE embedmill.coverage_samples (
    generation_id     integer NOT NULL REFERENCES embedmill.generations ON DELETE CASCADE,
    record_source_id  integer NOT NULL,
    sampled_at        timestamptz NOT NULL,
    tenant_id         integer NOT NULL,
    chunks            bigint NOT NULL,
    embedded          bigint NOT NULL,
    unembeddable      bigint NOT NULL,
    PRIMARY KEY (generation_id, record_source_id, sampled_at)
);
CREATE INDEX queue_samples_age ON embedmill.queue_samples (sampled_at);
CREATE INDEX coverage_samples_age ON embedmill.coverage_samples (sampled_at);
CREATE INDEX ingestion_jobs_parked ON embedmill.ingestion_jobs (tenant_id)
    WHERE paused_reason = 'budget' AND status = 'embedding_in_progress';

-- (retention) The original of an upload may go before its document does.
ALTER TABLE embedmill.ingestion_jobs ADD COLUMN original_dropped_at timestamptz;
CREATE INDEX ingestion_jobs_original_age ON embedmill.ingestion_jobs (completed_at) WHERE original_key IS NOT NULL;
CREATE INDEX dead_letters_resolved ON embedmill.dead_letters (resolved_at) WHERE resolved_at IS NOT NULL;

-- (metrics) Items that ended, ever: counters that never go back, whatever retention drops (25_counting.sql).
CREATE TABLE embedmill.ended_totals (
    tenant_id  integer NOT NULL,
    status     text NOT NULL,
    items      bigint NOT NULL,
    PRIMARY KEY (tenant_id, status)
) WITH (fillfactor = 50);
INSERT INTO embedmill.ended_totals (tenant_id, status, items)
SELECT tenant_id, status, sum(items) FROM embedmill.queue_counts
 WHERE status IN ('completed', 'failed', 'cancelled') GROUP BY tenant_id, status;

-- (usage) What calls counted and cost. Each appends one row to usage_unfolded with its row of the ledger; the leader folds
-- it, once, into usage_half_hours and usage_totals (functions/43_usage_sums.sql). A call of the past is summed here, and
-- the trigger stands from here on: no call is missed, and none counted twice.
LOCK TABLE embedmill.llm_usage_log IN SHARE ROW EXCLUSIVE MODE;

-- (usage) By the half hour in which they were made: exact and current, also of calls that retention has dropped one by
-- one. Half hours, because days of nearly all time zones are made of whole ones of UTC's.
CREATE TABLE embedmill.usage_half_hours (
    tenant_id             integer NOT NULL,
    half_hour             timestamptz NOT NULL,
    pipeline_id           integer NOT NULL,         -- 0: of none
    generation_id         integer NOT NULL,         -- 0: of none; a search's is the one that it reads
    usage_type            text NOT NULL,
    provider              text NOT NULL,
    model                 text NOT NULL,
    calls                 bigint NOT NULL,
    failed_calls          bigint NOT NULL,
    charged_failed_calls  bigint NOT NULL,          -- failed, and their tokens counted all the same
    inputs                bigint NOT NULL,
    input_tokens          bigint NOT NULL,
    output_tokens         bigint NOT NULL,
    latency_ms            bigint NOT NULL,          -- of all of them together
    cost_usd              numeric,                  -- of those whose cost is known; NULL: of none
    failed_cost_usd       numeric NOT NULL,         -- of the failed ones among them
    unknown_cost_calls    bigint NOT NULL,
    PRIMARY KEY (tenant_id, half_hour, pipeline_id, generation_id, usage_type, provider, model)
) WITH (fillfactor = 80);
CREATE INDEX usage_half_hours_time ON embedmill.usage_half_hours (half_hour);

-- (usage) What was not folded yet.
CREATE TABLE embedmill.usage_unfolded (LIKE embedmill.usage_half_hours)
    WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- (metrics) What was ever used, for metrics: counters that never go back, under names that stay.
CREATE TABLE embedmill.usage_totals (
    tenant_id           integer NOT NULL,
    pipeline_id         integer NOT NULL,           -- 0: of none
    usage_type          text NOT NULL,              -- backfills of all sources together
    provider            text NOT NULL,
    model               text NOT NULL,
    tenant              text NOT NULL,              -- as it was called first: metrics keep it
    pipeline            text NOT NULL,
    is_named            boolean NOT NULL,           -- decided once: a counter must not move between names
    calls               bigint NOT NULL,
    failed_calls        bigint NOT NULL,
    tokens              bigint NOT NULL,
    cost_usd            numeric NOT NULL,           -- of the calls whose cost is known
    unknown_cost_calls  bigint NOT NULL,
    PRIMARY KEY (tenant_id, pipeline_id, usage_type, provider, model)
) WITH (fillfactor = 50);

-- (usage) By user, and only of calls that retention has dropped one by one (functions/56_retention.sql: fold_old_usage):
-- who made them is the one thing that half hours do not tell, since users are without number, and the calls themselves
-- tell it while they stand in the ledger.
CREATE TABLE embedmill.usage_of_users (
    tenant_id             integer NOT NULL,
    half_hour             timestamptz NOT NULL,
    user_id               text,
    pipeline_id           integer NOT NULL,         -- 0: of none
    usage_type            text NOT NULL,
    provider              text NOT NULL,
    model                 text NOT NULL,
    calls                 bigint NOT NULL,
    failed_calls          bigint NOT NULL,
    charged_failed_calls  bigint NOT NULL,
    inputs                bigint NOT NULL,
    input_tokens          bigint NOT NULL,
    output_tokens         bigint NOT NULL,
    latency_ms            bigint NOT NULL,
    cost_usd              numeric,
    failed_cost_usd       numeric NOT NULL,
    unknown_cost_calls    bigint NOT NULL,
    UNIQUE NULLS NOT DISTINCT (tenant_id, half_hour, user_id, pipeline_id, usage_type, provider, model)
) WITH (fillfactor = 80);

INSERT INTO embedmill.usage_half_hours
    (tenant_id, half_hour, pipeline_id, generation_id, usage_type, provider, model, calls, failed_calls,
     charged_failed_calls, inputs, input_tokens, output_tokens, latency_ms, cost_usd, failed_cost_usd, unknown_cost_calls)
SELECT tenant_id, date_bin('30 minutes', created_at, '2000-01-01 00:00+00'), coalesce(pipeline_id, 0),
       coalesce(generation_id, 0), usage_type, provider, model, count(*), count(error),
       count(*) FILTER (WHERE error IS NOT NULL AND total_tokens > 0), sum(inputs), sum(input_tokens), sum(output_tokens),
       sum(latency_ms), sum(cost_usd), coalesce(sum(cost_usd) FILTER (WHERE error IS NOT NULL), 0),
       count(*) FILTER (WHERE cost_usd IS NULL)
  FROM embedmill.llm_usage_log GROUP BY 1, 2, 3, 4, 5, 6, 7;
INSERT INTO embedmill.usage_totals
    (tenant_id, pipeline_id, usage_type, provider, model, tenant, pipeline, is_named, calls, failed_calls, tokens, cost_usd,
     unknown_cost_calls)
SELECT s.tenant_id, s.pipeline_id, s.usage_type, s.provider, s.model, coalesce(t.slug, 'deleted'),
       coalesce(p.name, 'none'),
       row_number() OVER (ORDER BY s.tokens DESC, s.tenant_id, s.pipeline_id, s.usage_type, s.provider, s.model) <= 300,
       s.calls, s.failed_calls, s.tokens, s.cost_usd, s.unknown_cost_calls
  FROM (SELECT tenant_id, pipeline_id, split_part(usage_type, ':', 1) AS usage_type, provider, model, sum(calls) AS calls,
               sum(failed_calls) AS failed_calls, sum(input_tokens + output_tokens) AS tokens,
               coalesce(sum(cost_usd), 0) AS cost_usd, sum(unknown_cost_calls) AS unknown_cost_calls
          FROM embedmill.usage_half_hours GROUP BY 1, 2, 3, 4, 5) s
  LEFT JOIN embedmill.tenants t ON t.id = s.tenant_id
  LEFT JOIN embedmill.pipelines p ON p.id = s.pipeline_id;

-- (usage) From now on, and not only when the functions come: this migration is committed before them.
CREATE FUNCTION embedmill.usage_appended() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO embedmill.usage_unfolded
        (tenant_id, half_hour, pipeline_id, generation_id, usage_type, provider, model, calls, failed_calls,
         charged_failed_calls, inputs, input_tokens, output_tokens, latency_ms, cost_usd, failed_cost_usd, unknown_cost_calls)
    VALUES (new.tenant_id, date_bin('30 minutes', new.created_at, '2000-01-01 00:00+00'), coalesce(new.pipeline_id, 0),
            coalesce(new.generation_id, 0), new.usage_type, new.provider, new.model, 1, (new.error IS NOT NULL)::integer,
            (new.error IS NOT NULL AND new.input_tokens + new.output_tokens > 0)::integer, new.inputs, new.input_tokens,
            new.output_tokens, new.latency_ms, new.cost_usd,
            CASE WHEN new.error IS NOT NULL THEN coalesce(new.cost_usd, 0) ELSE 0 END, (new.cost_usd IS NULL)::integer);
    RETURN NULL;
END
$$;
CREATE TRIGGER usage_appended AFTER INSERT ON embedmill.llm_usage_log
    FOR EACH ROW EXECUTE FUNCTION embedmill.usage_appended();

-- (documents) The pages of documents: jobs of one pipeline or one status, newest first; what is open of one document.
-- Whoever retries a job looks for its letters in the same way. The status stands in the index's condition: under
-- row-level security an enum is no key to an index, since comparing two is not leakproof.
CREATE INDEX ingestion_jobs_pipeline_recent ON embedmill.ingestion_jobs (pipeline_id, created_at);
DROP INDEX embedmill.ingestion_jobs_status;
CREATE INDEX ingestion_jobs_staged ON embedmill.ingestion_jobs (tenant_id, created_at) WHERE status = 'staged';
CREATE INDEX ingestion_jobs_parsing ON embedmill.ingestion_jobs (tenant_id, created_at) WHERE status = 'parsing';
CREATE INDEX ingestion_jobs_chunk_preview_ready ON embedmill.ingestion_jobs (tenant_id, created_at) WHERE status = 'chunk_preview_ready';
CREATE INDEX ingestion_jobs_embedding_in_progress ON embedmill.ingestion_jobs (tenant_id, created_at) WHERE status = 'embedding_in_progress';
CREATE INDEX ingestion_jobs_completed ON embedmill.ingestion_jobs (tenant_id, created_at) WHERE status = 'completed';
CREATE INDEX ingestion_jobs_cancelled ON embedmill.ingestion_jobs (tenant_id, created_at) WHERE status = 'cancelled';
CREATE INDEX ingestion_jobs_failed ON embedmill.ingestion_jobs (tenant_id, created_at) WHERE status = 'failed';
CREATE INDEX dead_letters_document ON embedmill.dead_letters (document_id) WHERE resolved_at IS NULL;

-- (queue) Whoever dealt with a dead letter, and what was noted of it.
ALTER TABLE embedmill.dead_letters ADD COLUMN resolved_by text, ADD COLUMN note text;
