-- What the crash suite's observer adds to a database: a log of each change of a queue item and of each vector, with
-- the session that made it (crash.worker, from the worker's address) and the lease tokens that its transaction shows
-- (crash.leases, from wrappers.py). A log that is rolled back with its transaction is right: it did not happen.
CREATE SCHEMA crash;

CREATE TABLE crash.transitions (
    seq         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    session     text DEFAULT nullif(current_setting('crash.worker', true), ''),
    item_id     bigint NOT NULL,
    document_id bigint,
    old_status  text,
    new_status  text,          -- of a deleted row: NULL, its end stands in the history
    old_token   bigint,
    new_token   bigint,
    old_worker  uuid,
    new_worker  uuid,
    shown_token bigint,
    context     text NOT NULL  -- the functions that were running
);
CREATE INDEX ON crash.transitions (item_id, seq);

CREATE TABLE crash.ends (
    seq         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    item_id     bigint NOT NULL,
    status      text NOT NULL
);

CREATE TABLE crash.writes (
    seq           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    xid           xid8 NOT NULL DEFAULT pg_current_xact_id(),
    session       text DEFAULT nullif(current_setting('crash.worker', true), ''),
    generation_id integer NOT NULL,
    chunk_id      bigint NOT NULL,
    input_hash    bytea NOT NULL,
    item_id       bigint,
    shown_token   bigint,
    current_token bigint,
    worker_id     uuid,
    is_locked     boolean,     -- the writer holds the item's row to the end of its transaction
    is_same_text  boolean
);

CREATE FUNCTION crash.shown_token(p_item_id bigint) RETURNS bigint
LANGUAGE sql AS $$
    SELECT (nullif(current_setting('crash.leases', true), '')::jsonb ->> p_item_id::text)::bigint
$$;

CREATE FUNCTION crash.item_changed() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_context text;
BEGIN
    GET DIAGNOSTICS v_context = PG_CONTEXT;
    INSERT INTO crash.transitions
        (item_id, document_id, old_status, new_status, old_token, new_token, old_worker, new_worker, shown_token,
         context)
    VALUES (coalesce(NEW.id, OLD.id), coalesce(NEW.document_id, OLD.document_id), OLD.status, NEW.status,
            OLD.lease_token, NEW.lease_token, OLD.worker_id, NEW.worker_id,
            crash.shown_token(coalesce(NEW.id, OLD.id)), v_context);
    RETURN NULL;
END
$$;
CREATE TRIGGER crash_item AFTER INSERT OR UPDATE OR DELETE ON embedmill.embedding_queue
    FOR EACH ROW EXECUTE FUNCTION crash.item_changed();

CREATE FUNCTION crash.item_ended() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO crash.ends (item_id, status) VALUES (NEW.id, NEW.status);
    RETURN NULL;
END
$$;
CREATE TRIGGER crash_end AFTER INSERT ON embedmill.embedding_queue_history
    FOR EACH ROW EXECUTE FUNCTION crash.item_ended();

CREATE FUNCTION crash.vectors_written() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_xid text := (pg_current_xact_id()::text::numeric % 4294967296)::text;
BEGIN
    INSERT INTO crash.writes
        (generation_id, chunk_id, input_hash, item_id, shown_token, current_token, worker_id, is_locked, is_same_text)
    SELECT TG_ARGV[0]::integer, w.chunk_id, w.input_hash, q.id, crash.shown_token(q.id), q.lease_token, q.worker_id,
           q.xmax::text = v_xid OR q.xmin::text = v_xid, c.content_hash = w.input_hash
      FROM written w
      LEFT JOIN embedmill.knowledge_chunks c ON c.id = w.chunk_id
      LEFT JOIN embedmill.embedding_queue q
        ON q.generation_id = TG_ARGV[0]::integer AND q.document_id = c.document_id
       AND c.ordinal BETWEEN q.first_ordinal AND q.last_ordinal AND q.status = 'processing';
    RETURN NULL;
END
$$;
