-- The governor: calls and tokens a minute of one quota key, shared by every worker through this row.
--
-- Two gates, both under the row's lock and by the database's clock. The buckets pace: they refill at 96% of the
-- limit and hold at most 3% of it, so calls come evenly. A call is granted where there is no debt and may leave
-- one: were its whole size asked for first, small calls would for ever take what a large one waits for. The
-- window guarantees: what was granted in each second is known, and no grant takes the sum of the last 61 (up to
-- 62, for it counts whole seconds) beyond the limit, however calls were sized. The provider counts when a call
-- arrives, and its minute is of 60: so a call may be a second on its way.

-- The limits that hold for a key: its own, or the configured defaults where it asks for them.
CREATE OR REPLACE FUNCTION embedmill.quota_limits(
    q embedmill.quotas, OUT calls_per_minute integer, OUT tokens_per_minute integer)
LANGUAGE sql STABLE AS $$
    SELECT coalesce(q.calls_per_minute,
                    CASE WHEN q.uses_defaults THEN embedmill.config_integer('api_quota_per_minute')::integer END),
           coalesce(q.tokens_per_minute,
                    CASE WHEN q.uses_defaults THEN embedmill.config_integer('token_quota_per_minute')::integer END)
$$;

-- The window moved on to a second: what lies further back is forgotten. Slot s mod 64 belongs to second s.
CREATE OR REPLACE FUNCTION embedmill.advance_window(q embedmill.quotas, p_second bigint) RETURNS embedmill.quotas
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF p_second - q.window_second >= 64 THEN
        q.window_calls := array_fill(0, ARRAY[64]);
        q.window_tokens := array_fill(0::bigint, ARRAY[64]);
    ELSE
        -- Counted from one: a loop's variable is an integer, and seconds are not after 2038.
        FOR n IN 1 .. p_second - q.window_second LOOP
            q.window_calls[(q.window_second + n) % 64 + 1] := 0;
            q.window_tokens[(q.window_second + n) % 64 + 1] := 0;
        END LOOP;
    END IF;
    q.window_second := greatest(q.window_second, p_second);
    RETURN q;
END
$$;

-- When a sum over the last 61 seconds and the one begun has room for more: 0 if now, else the seconds until enough of it has
-- passed. More than the limit in one call is granted when the minute is empty: it could never be sent else.
CREATE OR REPLACE FUNCTION embedmill.window_wait(
    p_window bigint[], p_now double precision, p_limit bigint, p_more bigint)
RETURNS double precision
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_second bigint := floor(p_now);
    v_sum bigint := 0;
BEGIN
    FOR age IN 0 .. 61 LOOP
        v_sum := v_sum + p_window[(v_second - age) % 64 + 1];
        IF v_sum > 0 AND v_sum + p_more > p_limit THEN
            RETURN v_second - age + 62 - p_now;
        END IF;
    END LOOP;
    RETURN 0;
END
$$;

-- Spends one call of p_tokens if both gates allow it; returns 0 then, else the milliseconds to wait.
-- All or nothing. Callers keep calls below 3% of the tokens where they can: what is larger holds the others up, and
-- leaves more of the window empty, which is filled by whole calls.
-- p_now is for tests: the database's clock otherwise.
CREATE OR REPLACE FUNCTION embedmill.grant_quota(
    p_quota_key text, p_tokens integer, p_now timestamptz DEFAULT clock_timestamp())
RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    q embedmill.quotas;
    v_limits record;
    v_now double precision;
    v_elapsed double precision;
    v_slot integer;
    v_pace double precision := 0;
    v_wait double precision := 0;
BEGIN
    -- Most keys are neither limited nor cooling down: they need no lock.
    SELECT * INTO STRICT q FROM embedmill.quotas WHERE quota_key = p_quota_key;
    IF q.cooldown_until > p_now THEN
        RETURN ceil(extract(epoch FROM q.cooldown_until - p_now) * 1000);
    END IF;
    v_limits := embedmill.quota_limits(q);
    IF v_limits.calls_per_minute IS NULL AND v_limits.tokens_per_minute IS NULL THEN
        RETURN 0;
    END IF;
    SELECT * INTO STRICT q FROM embedmill.quotas WHERE quota_key = p_quota_key FOR UPDATE;
    -- Whoever waited for the lock comes after those who had it.
    v_now := extract(epoch FROM greatest(p_now, q.refilled_at));
    IF q.cooldown_until > to_timestamp(v_now) THEN
        RETURN ceil((extract(epoch FROM q.cooldown_until) - v_now) * 1000);
    END IF;
    q := embedmill.advance_window(q, floor(v_now)::bigint);
    v_elapsed := v_now - extract(epoch FROM q.refilled_at);
    IF v_limits.calls_per_minute IS NOT NULL THEN
        q.calls_level := least(v_limits.calls_per_minute * 0.03,
                               q.calls_level + v_elapsed * v_limits.calls_per_minute * 0.96 / 60);
        v_pace := -q.calls_level / (v_limits.calls_per_minute * 0.96 / 60);
        v_wait := embedmill.window_wait(q.window_calls, v_now, v_limits.calls_per_minute, 1);
    END IF;
    IF v_limits.tokens_per_minute IS NOT NULL THEN
        q.tokens_level := least(v_limits.tokens_per_minute * 0.03,
                                q.tokens_level + v_elapsed * v_limits.tokens_per_minute * 0.96 / 60);
        v_pace := greatest(v_pace, -q.tokens_level / (v_limits.tokens_per_minute * 0.96 / 60));
        v_wait := greatest(v_wait, embedmill.window_wait(q.window_tokens, v_now, v_limits.tokens_per_minute, p_tokens));
        IF v_pace <= 1e-6 AND v_wait > 0 THEN
            -- Its turn, and no room in the window: the others wait with it, or they would fill what comes free.
            q.tokens_level := least(q.tokens_level, -v_wait * v_limits.tokens_per_minute * 0.96 / 60);
        END IF;
    END IF;
    v_wait := greatest(v_wait, v_pace);
    IF v_wait <= 1e-6 THEN
        v_wait := 0;
        v_slot := q.window_second % 64 + 1;
        -- What is not limited owes nothing: a limit that comes later would find years of debt.
        q.calls_level := CASE WHEN v_limits.calls_per_minute IS NULL THEN 0 ELSE q.calls_level - 1 END;
        q.tokens_level := CASE WHEN v_limits.tokens_per_minute IS NULL THEN 0 ELSE q.tokens_level - p_tokens END;
        q.window_calls[v_slot] := q.window_calls[v_slot] + 1;
        q.window_tokens[v_slot] := q.window_tokens[v_slot] + p_tokens;
    END IF;
    UPDATE embedmill.quotas
       SET calls_level = q.calls_level, tokens_level = q.tokens_level, refilled_at = to_timestamp(v_now),
           window_second = q.window_second, window_calls = q.window_calls, window_tokens = q.window_tokens
     WHERE quota_key = p_quota_key;
    RETURN ceil(v_wait * 1000);
END
$$;

-- The provider counted otherwise than we did when we asked: p_tokens more (or fewer) than granted
-- p_seconds_ago. What timed out is never given back: it may have been counted. A grant that has left the window
-- changes nothing in it: what stands there now is others'.
CREATE OR REPLACE FUNCTION embedmill.settle_quota(p_quota_key text, p_tokens bigint, p_seconds_ago double precision)
RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    q embedmill.quotas;
    v_second bigint := floor(extract(epoch FROM clock_timestamp()) - p_seconds_ago);
    v_at bigint;
    v_slot integer;
    v_change bigint;
    v_left bigint := p_tokens;
BEGIN
    SELECT * INTO STRICT q FROM embedmill.quotas WHERE quota_key = p_quota_key;
    IF (embedmill.quota_limits(q)).tokens_per_minute IS NULL THEN
        RETURN;
    END IF;
    SELECT * INTO STRICT q FROM embedmill.quotas WHERE quota_key = p_quota_key FOR UPDATE;
    -- A moment reckoned back may lie in the second beside that of the grant.
    FOREACH v_at IN ARRAY ARRAY[v_second, v_second - 1, v_second + 1] LOOP
        CONTINUE WHEN v_at < q.window_second - 61;
        v_slot := least(v_at, q.window_second) % 64 + 1;
        v_change := greatest(v_left, -q.window_tokens[v_slot]);
        q.window_tokens[v_slot] := q.window_tokens[v_slot] + v_change;
        v_left := v_left - v_change;
    END LOOP;
    UPDATE embedmill.quotas
       SET tokens_level = tokens_level - p_tokens, window_tokens = q.window_tokens
     WHERE quota_key = p_quota_key;
END
$$;

-- The provider said wait: everybody who shares the key does, once, for as long as it asked at the longest.
CREATE OR REPLACE FUNCTION embedmill.cool_down(p_quota_key text, p_delay_ms bigint, p_reason text DEFAULT NULL)
RETURNS void
LANGUAGE sql AS $$
    UPDATE embedmill.quotas
       SET cooldown_until = clock_timestamp() + make_interval(secs => p_delay_ms / 1000.0), cooldown_reason = p_reason
     WHERE quota_key = p_quota_key
       AND cooldown_until < clock_timestamp() + make_interval(secs => p_delay_ms / 1000.0)
$$;

-- What of a key's minute is used, for people and for the autoscaler.
CREATE OR REPLACE FUNCTION embedmill.quota_state(
    p_quota_key text, OUT calls_per_minute integer, OUT tokens_per_minute integer, OUT calls_used integer,
    OUT tokens_used bigint, OUT cooling_seconds double precision, OUT cooldown_reason text, OUT binds boolean)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    q embedmill.quotas;
    v_now double precision := extract(epoch FROM clock_timestamp());
    v_elapsed double precision;
BEGIN
    SELECT * INTO STRICT q FROM embedmill.quotas WHERE quota_key = p_quota_key;
    SELECT l.calls_per_minute, l.tokens_per_minute INTO calls_per_minute, tokens_per_minute
      FROM embedmill.quota_limits(q) AS l;
    v_elapsed := greatest(v_now - extract(epoch FROM q.refilled_at), 0);
    q := embedmill.advance_window(q, greatest(floor(v_now)::bigint, q.window_second));
    calls_used := (SELECT sum(c) FROM unnest(q.window_calls) AS c);
    tokens_used := (SELECT sum(t) FROM unnest(q.window_tokens) AS t);
    cooling_seconds := greatest(extract(epoch FROM q.cooldown_until) - v_now, 0);
    cooldown_reason := CASE WHEN cooling_seconds > 0 THEN q.cooldown_reason END;
    -- Work waits for the quota where the minute is used up to a twentieth or the pace holds the next call back.
    binds := cooling_seconds > 0
        OR coalesce(calls_used >= 0.9 * calls_per_minute
                    OR q.calls_level + v_elapsed * calls_per_minute * 0.96 / 60 < 1, false)
        OR coalesce(tokens_used >= 0.9 * tokens_per_minute
                    OR q.tokens_level + v_elapsed * tokens_per_minute * 0.96 / 60 < 0.01 * tokens_per_minute, false);
END
$$;
