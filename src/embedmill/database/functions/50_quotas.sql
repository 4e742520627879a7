-- The governor: calls and tokens a minute of one quota key, shared by every worker through this row.

-- Spends one call of p_tokens if both buckets allow it; returns 0 then, else the milliseconds to wait.
-- All or nothing, under the row's lock, by the database's clock.
--
-- No sliding minute may exceed the limit: the buckets refill at 95% of it and hold at most 5% of it, so a
-- minute sees at most 0.95 + 0.05. A single call larger than the bucket waits for a full one and leaves it in
-- debt; callers keep calls below 5% of the tokens where they can.
CREATE OR REPLACE FUNCTION embedmill.grant_quota(p_quota_key text, p_tokens integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    q embedmill.quotas;
    v_now timestamptz;
    v_elapsed double precision;
    v_calls_cap double precision;
    v_tokens_cap double precision;
    v_wait double precision := 0;
BEGIN
    SELECT * INTO STRICT q FROM embedmill.quotas WHERE quota_key = p_quota_key FOR UPDATE;
    v_now := clock_timestamp();
    IF q.cooldown_until > v_now THEN
        RETURN ceil(extract(epoch FROM q.cooldown_until - v_now) * 1000);
    END IF;
    IF q.calls_per_minute IS NULL AND q.tokens_per_minute IS NULL THEN
        RETURN 0;
    END IF;
    v_elapsed := greatest(extract(epoch FROM v_now - q.refilled_at), 0);
    -- A bucket holds at least one call, or a limit of 1 a minute could never be used.
    v_calls_cap := greatest(q.calls_per_minute * 0.05, 1);
    v_tokens_cap := q.tokens_per_minute * 0.05;
    q.calls_level := least(v_calls_cap, q.calls_level + v_elapsed * q.calls_per_minute * 0.95 / 60);
    q.tokens_level := least(v_tokens_cap, q.tokens_level + v_elapsed * q.tokens_per_minute * 0.95 / 60);
    IF q.calls_per_minute IS NOT NULL AND q.calls_level < 1 THEN
        v_wait := (1 - q.calls_level) / (q.calls_per_minute * 0.95 / 60);
    END IF;
    IF q.tokens_per_minute IS NOT NULL AND q.tokens_level < least(p_tokens, v_tokens_cap) THEN
        v_wait := greatest(v_wait, (least(p_tokens, v_tokens_cap) - q.tokens_level)
                                   / (q.tokens_per_minute * 0.95 / 60));
    END IF;
    IF v_wait = 0 THEN
        q.calls_level := q.calls_level - 1;
        q.tokens_level := q.tokens_level - p_tokens;
    END IF;
    UPDATE embedmill.quotas
       SET calls_level = coalesce(q.calls_level, 0), tokens_level = coalesce(q.tokens_level, 0), refilled_at = v_now
     WHERE quota_key = p_quota_key;
    RETURN ceil(v_wait * 1000);
END
$$;

-- The provider said wait: everybody who shares the key does, once, for as long as it asked at the longest.
CREATE OR REPLACE FUNCTION embedmill.cool_down(p_quota_key text, p_delay_ms bigint) RETURNS void
LANGUAGE sql AS $$
    UPDATE embedmill.quotas
       SET cooldown_until = greatest(cooldown_until, clock_timestamp() + make_interval(secs => p_delay_ms / 1000.0))
     WHERE quota_key = p_quota_key
$$;
