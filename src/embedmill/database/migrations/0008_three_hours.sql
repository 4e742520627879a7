-- Usage by three hours beside the half hours: what pages about months read.

-- (usage) Nothing is folded until the functions come, which a moment later fold into both: whoever folds now is waited
-- for, and what he folded is read below.
SELECT pg_advisory_xact_lock(hashtext('embedmill.fold_usage'));
CREATE OR REPLACE FUNCTION embedmill.fold_usage() RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint';

-- (usage) The half hours summed, by three hours of UTC: days are made of eight, or of seven and some half hours, whatever
-- the zone.
CREATE TABLE embedmill.usage_three_hours (
    tenant_id             integer NOT NULL,
    three_hours           timestamptz NOT NULL,     -- when they begin: at 0, 3, 6 ... o'clock of UTC
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
    PRIMARY KEY (tenant_id, three_hours, pipeline_id, generation_id, usage_type, provider, model)
) WITH (fillfactor = 80);
CREATE INDEX usage_three_hours_time ON embedmill.usage_three_hours (three_hours);

INSERT INTO embedmill.usage_three_hours
    (tenant_id, three_hours, pipeline_id, generation_id, usage_type, provider, model, calls, failed_calls,
     charged_failed_calls, inputs, input_tokens, output_tokens, latency_ms, cost_usd, failed_cost_usd, unknown_cost_calls)
SELECT tenant_id, date_bin('3 hours', half_hour, '2000-01-01 00:00+00'), pipeline_id, generation_id, usage_type, provider,
       model, sum(calls), sum(failed_calls), sum(charged_failed_calls), sum(inputs), sum(input_tokens), sum(output_tokens),
       sum(latency_ms), sum(cost_usd), sum(failed_cost_usd), sum(unknown_cost_calls)
  FROM embedmill.usage_half_hours GROUP BY 1, 2, 3, 4, 5, 6, 7;

-- (search) In its place a sample is taken (passing_share).
DROP FUNCTION IF EXISTS embedmill.guess_share(integer, text, jsonb);
