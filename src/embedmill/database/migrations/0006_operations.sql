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

-- (retention) Old rows of the ledger, summed by the hour: what was spent is known also when the single calls are gone.
CREATE TABLE embedmill.usage_hours (
    hour                timestamptz NOT NULL,
    tenant_id           integer NOT NULL,
    pipeline_id         integer,
    generation_id       integer,
    user_id             text,
    usage_type          text NOT NULL,
    action              text NOT NULL,
    provider            text NOT NULL,
    model               text NOT NULL,
    calls               bigint NOT NULL,
    failed_calls        bigint NOT NULL,
    inputs              bigint NOT NULL,
    input_tokens        bigint NOT NULL,
    output_tokens       bigint NOT NULL,
    latency_ms          bigint NOT NULL,          -- of all of them together
    cost_usd            numeric,                  -- of those whose cost is known; NULL: of none
    unknown_cost_calls  bigint NOT NULL,
    UNIQUE NULLS NOT DISTINCT (tenant_id, hour, pipeline_id, generation_id, user_id, usage_type, action, provider, model)
) WITH (fillfactor = 80);

-- (retention) The original of an upload may go before its document does.
ALTER TABLE embedmill.ingestion_jobs ADD COLUMN original_dropped_at timestamptz;
CREATE INDEX ingestion_jobs_original_age ON embedmill.ingestion_jobs (completed_at) WHERE original_key IS NOT NULL;
CREATE INDEX dead_letters_resolved ON embedmill.dead_letters (resolved_at) WHERE resolved_at IS NOT NULL;

-- (metrics) Counters that never go back, whatever retention drops: appended with the call, folded by the leader
-- (functions/44_usage_totals.sql), as items are (25_counting.sql).
CREATE TABLE embedmill.usage_changes (
    tenant_id       integer NOT NULL,
    pipeline_id     integer NOT NULL,             -- 0: of none
    usage_type      text NOT NULL,                -- backfills of all sources together
    provider        text NOT NULL,
    model           text NOT NULL,
    calls           bigint NOT NULL,
    failed_calls    bigint NOT NULL,
    tokens          bigint NOT NULL,
    cost_usd        numeric NOT NULL,             -- of the calls whose price is known
    unpriced_calls  bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE TABLE embedmill.usage_totals (
    tenant_id       integer NOT NULL,
    pipeline_id     integer NOT NULL,
    usage_type      text NOT NULL,
    provider        text NOT NULL,
    model           text NOT NULL,
    tenant          text NOT NULL,                -- as it was called first: metrics keep it
    pipeline        text NOT NULL,
    is_named        boolean NOT NULL,             -- decided once: a counter must not move between names
    calls           bigint NOT NULL,
    failed_calls    bigint NOT NULL,
    tokens          bigint NOT NULL,
    cost_usd        numeric NOT NULL,
    unpriced_calls  bigint NOT NULL,
    PRIMARY KEY (tenant_id, pipeline_id, usage_type, provider, model)
) WITH (fillfactor = 50);
CREATE TABLE embedmill.ended_totals (
    tenant_id  integer NOT NULL,
    status     text NOT NULL,
    items      bigint NOT NULL,
    PRIMARY KEY (tenant_id, status)
) WITH (fillfactor = 50);
INSERT INTO embedmill.ended_totals (tenant_id, status, items)
SELECT tenant_id, status, sum(items) FROM embedmill.queue_counts
 WHERE status IN ('completed', 'failed', 'cancelled') GROUP BY tenant_id, status;
INSERT INTO embedmill.usage_changes
SELECT tenant_id, coalesce(pipeline_id, 0), split_part(usage_type, ':', 1), provider, model, count(*), count(error),
       coalesce(sum(total_tokens), 0), coalesce(sum(cost_usd), 0), count(*) FILTER (WHERE cost_usd IS NULL)
  FROM embedmill.llm_usage_log GROUP BY 1, 2, 3, 4, 5;

-- (usage) What calls counted and cost, by the half hour in which they were made: exact and current, also of calls that
-- retention has dropped one by one. Half hours, because days of nearly all time zones are made of whole ones of UTC's.
-- Appended to usage_unfolded with the call, folded by the leader (functions/43_usage_half_hours.sql).
LOCK TABLE embedmill.llm_usage_log IN SHARE ROW EXCLUSIVE MODE;    -- no call slips in before the trigger stands
CREATE TABLE embedmill.usage_half_hours (
    tenant_id             integer NOT NULL,
    half_hour             timestamptz NOT NULL,
    pipeline_id           integer NOT NULL,         -- 0: of none
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
    PRIMARY KEY (tenant_id, half_hour, pipeline_id, usage_type, provider, model)
) WITH (fillfactor = 80);
CREATE INDEX usage_half_hours_time ON embedmill.usage_half_hours (half_hour);
CREATE TABLE embedmill.usage_unfolded (LIKE embedmill.usage_half_hours)
    WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
INSERT INTO embedmill.usage_half_hours
SELECT tenant_id, date_bin('30 minutes', created_at, '2000-01-01 00:00+00'), coalesce(pipeline_id, 0), usage_type, provider,
       model, count(*), count(error), count(*) FILTER (WHERE error IS NOT NULL AND total_tokens > 0), sum(inputs),
       sum(input_tokens), sum(output_tokens), sum(latency_ms), sum(cost_usd),
       coalesce(sum(cost_usd) FILTER (WHERE error IS NOT NULL), 0), count(*) FILTER (WHERE cost_usd IS NULL)
  FROM embedmill.llm_usage_log GROUP BY 1, 2, 3, 4, 5, 6;

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
