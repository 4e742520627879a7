-- The queue at production strength: settings that change while running, their audit log, fairness between
-- tenants, counts without scans, sweeps by one leader, an exact window for quotas.

-- Every setting of the queue with its bounds; functions/15_config.sql says which there are. A trigger checks
-- what is set, however it is set, and writes the audit log.
CREATE TABLE embedmill.embedding_queue_config (
    key            text PRIMARY KEY,
    value          jsonb NOT NULL,
    default_value  jsonb NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('integer', 'boolean', 'weights')),
    minimum        bigint,
    maximum        bigint,
    description    text NOT NULL,
    updated_at     timestamptz,                  -- NULL: never changed by a person
    updated_by     text
);

-- Who did what: people and programs that change settings, or many items at once.
CREATE TABLE embedmill.audit_log (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    tenant_id   integer REFERENCES embedmill.tenants ON DELETE CASCADE,   -- NULL: it concerns everybody
    actor       text NOT NULL,
    action      text NOT NULL,
    subject     text NOT NULL,
    old_value   jsonb,
    new_value   jsonb
);
CREATE INDEX audit_log_recent ON embedmill.audit_log (at);

-- Fairness: a tenant's share of what is contended, and the most of its items that may be worked on at once.
ALTER TABLE embedmill.tenants
    ADD COLUMN weight real NOT NULL DEFAULT 1 CHECK (weight > 0 AND weight <= 1000),
    ADD COLUMN max_processing_items integer CHECK (max_processing_items > 0);    -- NULL: no cap

-- How much each tenant has had: tokens over weight. The one with the least is served first.
CREATE TABLE embedmill.tenant_turns (
    tenant_id     integer PRIMARY KEY REFERENCES embedmill.tenants ON DELETE CASCADE,
    virtual_time  double precision NOT NULL
) WITH (fillfactor = 50);
-- Where the active tenants stand: one that returns from idleness starts here, and not where it left off.
CREATE TABLE embedmill.turn_clock (
    only_row      boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    virtual_time  double precision NOT NULL
);
INSERT INTO embedmill.turn_clock (virtual_time) VALUES (0);

-- What changed in the queue, appended by each statement and folded into queue_counts and tenant_turns every
-- few seconds: counters that nobody waits for.
CREATE TABLE embedmill.queue_changes (
    tenant_id      integer NOT NULL,
    generation_id  integer NOT NULL,
    day            date,
    status         text NOT NULL,                -- live, claimed, or how they ended
    items          integer NOT NULL,
    tokens         bigint NOT NULL DEFAULT 0
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX queue_changes_claimed ON embedmill.queue_changes (tenant_id) WHERE status = 'claimed';

CREATE TABLE embedmill.queue_counts (
    generation_id  integer NOT NULL REFERENCES embedmill.generations ON DELETE CASCADE,
    status         text NOT NULL,                -- live, or how they ended
    day            date NOT NULL,                -- on which they ended; -infinity for live ones
    tenant_id      integer NOT NULL,
    items          bigint NOT NULL,
    PRIMARY KEY (generation_id, status, day)
) WITH (fillfactor = 50);
CREATE INDEX queue_counts_tenant ON embedmill.queue_counts (tenant_id);
INSERT INTO embedmill.queue_counts (generation_id, status, day, tenant_id, items)
SELECT generation_id, 'live', '-infinity', tenant_id, count(*)
  FROM embedmill.embedding_queue GROUP BY generation_id, tenant_id
UNION ALL
SELECT h.generation_id, h.status::text, (h.processing_completed_at AT TIME ZONE 'UTC')::date, h.tenant_id, count(*)
  FROM embedmill.embedding_queue_history h JOIN embedmill.generations g ON g.id = h.generation_id
 GROUP BY 1, 2, 3, 4;

-- Periodic work: one leader at a time (a lease with a term), and each tick of a task happens once even where
-- two believe that they lead.
CREATE TABLE embedmill.sweep_leader (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    worker_id   uuid,
    term        bigint NOT NULL DEFAULT 0,
    expires_at  timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO embedmill.sweep_leader DEFAULT VALUES;
CREATE TABLE embedmill.sweeps (
    task        text NOT NULL,
    tick        bigint NOT NULL,                 -- which period of the task it is, counted from 1970
    term        bigint NOT NULL,
    worker_id   uuid NOT NULL,
    ran_at      timestamptz NOT NULL DEFAULT now(),
    outcome     text,
    PRIMARY KEY (task, tick)
);

ALTER TABLE embedmill.pipelines ADD COLUMN paused_at timestamptz;    -- nothing of it is claimed since

-- A minute of grants, second by second, so that no sliding minute can exceed the limit.
ALTER TABLE embedmill.quotas
    ADD COLUMN uses_defaults boolean NOT NULL DEFAULT false,         -- limits of NULL: those of the configuration
    ADD COLUMN window_second bigint NOT NULL DEFAULT 0,
    ADD COLUMN window_calls integer[] NOT NULL DEFAULT array_fill(0, ARRAY[64]),
    ADD COLUMN window_tokens bigint[] NOT NULL DEFAULT array_fill(0::bigint, ARRAY[64]),
    ADD COLUMN cooldown_reason text,
    SET (fillfactor = 10);

ALTER TABLE embedmill.embedding_queue_workers
    ADD COLUMN troubles jsonb NOT NULL DEFAULT '{}',                 -- generation: why it is left alone for now
    ADD COLUMN drain_requested_at timestamptz,                       -- somebody asked it to stop in order
    ADD COLUMN session_name text;                                    -- application_name of its connections

-- A person has seen it: retried, or discarded.
ALTER TABLE embedmill.dead_letters
    ALTER COLUMN item_id DROP NOT NULL,                              -- NULL: embedded without the queue
    ADD COLUMN resolved_at timestamptz,
    ADD COLUMN resolution text CHECK (resolution IN ('retried', 'discarded'));
CREATE INDEX dead_letters_open ON embedmill.dead_letters (tenant_id, id) WHERE resolved_at IS NULL;
CREATE INDEX dead_letters_item ON embedmill.dead_letters (item_id);

CREATE INDEX embedding_queue_batch ON embedmill.embedding_queue (batch_id) WHERE batch_id IS NOT NULL;
CREATE INDEX embedding_queue_history_batch ON embedmill.embedding_queue_history (batch_id, processing_completed_at)
    WHERE batch_id IS NOT NULL;

CREATE INDEX embedding_queue_history_unfinished ON embedmill.embedding_queue_history (id)
    WHERE status IN ('failed', 'cancelled');
-- One live item for each piece of a document: enqueueing again merges into it. By numbers that rise as the items
-- come, so that a claim among a million touches a few pages of it, and not one for each item as by names.
DROP INDEX embedmill.embedding_queue_piece;
DROP INDEX embedmill.embedding_queue_document;
CREATE UNIQUE INDEX embedding_queue_document ON embedmill.embedding_queue (document_id, generation_id, part)
    WHERE document_id IS NOT NULL;
CREATE UNIQUE INDEX embedding_queue_source ON embedmill.embedding_queue (generation_id, source_type, source_id, part)
    WHERE document_id IS NULL;
-- A lookup for each item enqueued, for what happens once in a pipeline's life: functions/20_generations.sql does it.
ALTER TABLE embedmill.embedding_queue DROP CONSTRAINT embedding_queue_generation_id_fkey;

-- A check is read and compiled again by each statement, and every word of it costs: one for each table, without
-- lists. The length of source_id is checked where it comes from, in knowledge_documents.
ALTER TABLE embedmill.embedding_queue
    DROP CONSTRAINT embedding_queue_check,
    DROP CONSTRAINT embedding_queue_check1,
    DROP CONSTRAINT embedding_queue_source_id_check,
    DROP CONSTRAINT embedding_queue_status_check,
    ADD CONSTRAINT embedding_queue_check CHECK (
        (lease_token IS NULL) = (worker_id IS NULL)
        AND CASE WHEN lease_token IS NULL THEN status = 'pending' OR status = 'rate_limited'
                 ELSE status = 'processing' END);
ALTER TABLE embedmill.embedding_queue_history
    DROP CONSTRAINT embedding_queue_history_status_check,
    ADD CONSTRAINT embedding_queue_history_check CHECK (status >= 'completed');     -- or failed, or cancelled

-- Items name their document's own source.
UPDATE embedmill.embedding_queue q
   SET source_type = d.source_type, source_id = d.source_id
  FROM embedmill.knowledge_documents d
 WHERE d.id = q.document_id AND q.source_type = 'document';

-- Functions whose shape changes; a fresh database has none yet.
DROP FUNCTION IF EXISTS embedmill.claim_items(uuid, integer, integer, bigint, bigint, double precision);
DROP FUNCTION IF EXISTS embedmill.ready_generations();
DROP FUNCTION IF EXISTS embedmill.create_pipeline(
    integer, text, jsonb, integer, text, integer, integer, text, numeric, integer, integer);
DROP FUNCTION IF EXISTS embedmill.cool_down(text, bigint);
DROP FUNCTION IF EXISTS embedmill.grant_quota(text, integer);
DROP FUNCTION IF EXISTS embedmill.ensure_history_partitions();
