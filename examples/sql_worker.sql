-- An embedding worker in plain SQL: one turn of its work. It drains the queue beside any other workers with
--
--     export OPENAI_API_KEY=...            # not for a server that wants none
--     worker=$(cat /proc/sys/kernel/random/uuid)
--     while psql "$EMBEDMILL_DATABASE_URL" -qAt -v worker="$worker" -v pipeline=default -v items=2 \
--         -v url=https://api.openai.com/v1 -v model=text-embedding-3-small -v dimensions=1536 \
--         -f examples/sql_worker.sql; do :; done
--
-- and ends, by an error of its own, when nothing lives in the queue any more. It needs psql 15 and curl 7.84. An
-- item has up to 500 texts, and all of a turn go in one call: `items` is bounded by what the provider takes.
-- What each function does: docs/how-to/write-a-worker-in-any-language.md.
\set ON_ERROR_STOP on
CREATE TEMP TABLE batch AS SELECT * FROM embedmill.get_next_embedding_batch(:'worker', :items, :'pipeline');
SELECT count(*) = 0 AS idle, EXISTS (SELECT FROM embedmill.embedding_queue) AS alive,
       greatest(sum(estimated_tokens), 1) AS estimated FROM batch \gset
\if :idle
    \if :alive
        SELECT 'waiting' FROM pg_sleep(1);  -- for a backoff, a rate limit or another worker
        \quit
    \endif
    SELECT embedmill.stop_worker(:'worker');
    DO 'BEGIN RAISE EXCEPTION $$the queue is empty$$; END';
\endif
CREATE TEMP TABLE inputs AS
SELECT row_number() OVER () AS n, b.item_id, i.*
  FROM batch b, LATERAL embedmill.get_embedding_inputs(b.item_id, b.lease_token) AS i;
SELECT count(*) > 0 AS calling, coalesce(sum(token_count), 0) AS tokens, 200 AS code, '' AS delay_ms FROM inputs \gset
\if :calling
    SELECT wait_ms, wait_ms > 0 AS refused
      FROM (SELECT embedmill.grant_quota(quota_key, :tokens) AS wait_ms FROM batch LIMIT 1) AS asked \gset
    \if :refused
        -- What goes back has lost no attempt, and others may have room for it meanwhile.
        SELECT embedmill.stop_worker(:'worker');
        SELECT 'no quota' FROM pg_sleep(:wait_ms / 1000.0);
        \quit
    \endif
    \set folder `mktemp -d`
    \set body :folder '/body'
    SELECT json_build_object('model', :'model', 'dimensions', :dimensions, 'encoding_format', 'float',
                             'input', json_agg(input ORDER BY n)) FROM inputs \g :body
    \set said `printf 'header = "Authorization: Bearer %s"' "$OPENAI_API_KEY" | curl -sS -K - -m 40 -H 'Content-Type: application/json' --data-binary @:body -o :folder/answer -w '%{http_code} %header{retry-after}' :'url'/embeddings`
    \set answer `cat :folder/answer; rm -r :folder`
    SELECT split_part(:'said', ' ', 1) AS code,
           coalesce((substring(:'said' FROM ' (\d+)$')::bigint * 1000)::text, '') AS delay_ms \gset
    -- An answer that is not what it should be is an error here, and the completion below finds what is missing.
    \set ON_ERROR_STOP off
    SELECT coalesce(:'answer'::json -> 'usage' ->> 'total_tokens', :'tokens') AS tokens \gset
    SELECT embedmill.store_embeddings(b.item_id, b.lease_token, array_agg(i.chunk_id), array_agg(e ->> 'embedding'))
      FROM json_array_elements(:'answer'::json -> 'data') WITH ORDINALITY AS a (e, place)
      JOIN inputs i ON i.n = coalesce((e ->> 'index')::integer + 1, place) JOIN batch b USING (item_id)
     GROUP BY b.item_id, b.lease_token;
    \set ON_ERROR_STOP on
\endif
-- Each item bears its share of what the call was charged; the shares sum up to the whole.
SELECT item_id, CASE :code
           WHEN 429 THEN embedmill.handle_rate_limit(item_id, :'worker', lease_token, nullif(:'delay_ms', '')::bigint)
           ELSE embedmill.complete_embedding_queue_item(item_id, :'worker', lease_token, :code = 200, CASE :code WHEN 200
               THEN (:tokens * up_to / :estimated - :tokens * (up_to - estimated_tokens) / :estimated)::integer END,
               'the provider answered ' || :'code') END
  FROM (SELECT *, sum(estimated_tokens) OVER (ORDER BY item_id) AS up_to FROM batch ORDER BY item_id) AS shares;
