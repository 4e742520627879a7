-- The service: staged originals and their parsing, keys, events with their webhooks, budgets. What a table holds
-- of a tenant has tenant_id, and functions/10_tenants.sql puts it under row-level security.

-- What a job was made from and how it is to go on. `original_*` and `content_hash` are those of the upload: the
-- document takes them over when it was parsed, so that its older content stays searchable until then.
ALTER TABLE embedmill.ingestion_jobs
    ADD COLUMN auto_launch boolean NOT NULL DEFAULT false,
    ADD COLUMN original_name text,
    ADD COLUMN original_key text,                -- where the bytes stand in the store of originals
    ADD COLUMN original_url text,                -- from where they are to be fetched
    ADD COLUMN media_type text,                  -- as the uploader says
    ADD COLUMN size_bytes bigint,
    ADD COLUMN content_hash bytea,               -- sha256 of the bytes
    ADD COLUMN chunk_tokens integer CHECK (chunk_tokens BETWEEN 8 AND 100000),   -- NULL: the pipeline's
    ADD COLUMN chunk_overlap integer CHECK (chunk_overlap >= 0),
    ADD COLUMN user_id text,                     -- on whose behalf, as the client says
    ADD COLUMN paused_reason text,               -- why it does not go on though nothing failed: budget
    ADD COLUMN parsing_started_at timestamptz,
    ADD COLUMN preview_ready_at timestamptz,
    ADD COLUMN launched_at timestamptz,          -- for the last time
    ADD COLUMN launched_chunks integer,          -- how many had their vector then
    ADD CONSTRAINT ingestion_jobs_chunk_plan_check CHECK (chunk_overlap <= chunk_tokens / 2);
CREATE INDEX ingestion_jobs_original ON embedmill.ingestion_jobs (original_key) WHERE original_key IS NOT NULL;
CREATE INDEX ingestion_jobs_status ON embedmill.ingestion_jobs (tenant_id, status, created_at);
CREATE INDEX knowledge_documents_content ON embedmill.knowledge_documents (pipeline_id, content_hash);

-- Jobs that wait for a parser, or have one. As in the queue: whoever writes must hold the lease's token.
CREATE TABLE embedmill.parse_queue (
    job_id          uuid PRIMARY KEY REFERENCES embedmill.ingestion_jobs ON DELETE CASCADE,
    tenant_id       integer NOT NULL,
    priority        embedmill.queue_priority NOT NULL,
    available_at    timestamptz NOT NULL DEFAULT now(),
    attempts        smallint NOT NULL DEFAULT 0,         -- that failed by no fault of the document
    worker_id       uuid,
    lease_token     bigint,
    lease_deadline  timestamptz,
    CHECK ((lease_token IS NULL) = (worker_id IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX parse_queue_ready ON embedmill.parse_queue (tenant_id, priority, available_at) WHERE lease_token IS NULL;
CREATE INDEX parse_queue_leased ON embedmill.parse_queue (lease_deadline) WHERE lease_token IS NOT NULL;

-- Somebody wants this item's job to stop: what is under way is written still, nothing more is begun.
ALTER TABLE embedmill.embedding_queue ADD COLUMN cancel_requested_at timestamptz;
-- Since when an item that was begun has waited for a provider that is away.
ALTER TABLE embedmill.embedding_queue ADD COLUMN held_up_at timestamptz;
CREATE INDEX embedding_queue_held_up ON embedmill.embedding_queue (held_up_at) WHERE held_up_at IS NOT NULL;
CREATE INDEX embedding_queue_cancelling ON embedmill.embedding_queue (worker_id) WHERE cancel_requested_at IS NOT NULL;

-- Keys of the API. The key itself stands nowhere: only its HMAC, under a pepper that the database does not know.
CREATE TYPE embedmill.api_role AS ENUM ('reader', 'writer', 'admin');
CREATE TABLE embedmill.api_keys (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id     integer NOT NULL REFERENCES embedmill.tenants ON DELETE CASCADE,
    name          text NOT NULL,
    role          embedmill.api_role NOT NULL,
    prefix        text NOT NULL,                 -- its beginning, by which people tell keys apart
    key_hmac      bytea NOT NULL UNIQUE,         -- HMAC-SHA256
    created_at    timestamptz NOT NULL DEFAULT now(),
    created_by    text NOT NULL,
    expires_at    timestamptz,
    last_used_at  timestamptz,                   -- to the minute
    revoked_at    timestamptz
);
CREATE INDEX api_keys_tenant ON embedmill.api_keys (tenant_id, created_at);

-- A request that is sent again with the same Idempotency-Key gets the answer of the first.
CREATE TABLE embedmill.idempotency_keys (
    tenant_id     integer NOT NULL,
    key           text NOT NULL CHECK (octet_length(key) <= 255),
    request_hash  bytea NOT NULL,                -- of what was asked: the same key for something else is refused
    status_code   integer,                       -- NULL: the first is still under way
    response      jsonb,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, key)
);
CREATE INDEX idempotency_keys_age ON embedmill.idempotency_keys (created_at);

-- What happened, in order, for streams that may be taken up again and for webhooks. `xact`: a reader takes only
-- those before the oldest transaction that is still open, or it would miss one that commits late.
CREATE TABLE embedmill.events (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xact        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    tenant_id   integer NOT NULL,
    type        text NOT NULL,                   -- job.staged, job.completed, batch.completed, ...
    job_id      uuid,
    batch_id    uuid,
    payload     jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX events_tenant ON embedmill.events (tenant_id, xact, id);
CREATE INDEX events_job ON embedmill.events (job_id, xact, id) WHERE job_id IS NOT NULL;
CREATE INDEX events_batch ON embedmill.events (batch_id, xact, id) WHERE batch_id IS NOT NULL;
CREATE INDEX events_age ON embedmill.events (created_at);

-- Appended by each job of a batch that ends, taken away by the leader, who looks whether the batch has ended with it.
CREATE TABLE embedmill.batch_ends (
    tenant_id  integer NOT NULL,
    batch_id   uuid NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- Where events are sent to. The secret that signs them is derived from the service's own: it stands nowhere.
CREATE TABLE embedmill.webhooks (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id       integer NOT NULL REFERENCES embedmill.tenants ON DELETE CASCADE,
    url             text NOT NULL CHECK (octet_length(url) <= 2000),
    event_types     text[] NOT NULL DEFAULT '{}',        -- none: all
    description     text NOT NULL DEFAULT '',
    secret_version  integer NOT NULL DEFAULT 1,
    is_active       boolean NOT NULL DEFAULT true,
    disabled_reason text,                                -- where it was not a person who switched it off
    failures        integer NOT NULL DEFAULT 0,          -- deliveries in a row that were given up
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhooks_tenant ON embedmill.webhooks (tenant_id);

-- The outbox: written in the transaction of the event, sent by whoever claims it.
CREATE TABLE embedmill.webhook_deliveries (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),     -- the webhook-id of every attempt
    tenant_id        integer NOT NULL,
    webhook_id       uuid NOT NULL REFERENCES embedmill.webhooks ON DELETE CASCADE,
    event_id         bigint,                             -- NULL: a test call
    event_type       text NOT NULL,
    payload          jsonb NOT NULL,
    status           text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'failed')),
    attempts         integer NOT NULL DEFAULT 0,
    next_attempt_at  timestamptz NOT NULL DEFAULT now(), -- while one is under way: when it counts as lost
    response_status  integer,
    error            text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    ended_at         timestamptz
) WITH (fillfactor = 80);
CREATE INDEX webhook_deliveries_due ON embedmill.webhook_deliveries (webhook_id, next_attempt_at)
    WHERE status = 'pending';
CREATE INDEX webhook_deliveries_recent ON embedmill.webhook_deliveries (webhook_id, created_at, id);
CREATE INDEX webhook_deliveries_age ON embedmill.webhook_deliveries (created_at);

-- The most that may be spent: by a tenant in a month or in all, or by one job. Each call reserves what it may
-- cost before it is made, so that no number of workers together passes the limit.
CREATE TABLE embedmill.budgets (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id     integer NOT NULL REFERENCES embedmill.tenants ON DELETE CASCADE,
    job_id        uuid UNIQUE REFERENCES embedmill.ingestion_jobs ON DELETE CASCADE,   -- NULL: the tenant's own
    period        text NOT NULL DEFAULT 'total' CHECK (period IN ('month', 'total')),
    limit_usd     numeric NOT NULL CHECK (limit_usd >= 0),
    spent_usd     numeric NOT NULL DEFAULT 0,            -- since period_start
    reserved_usd  numeric NOT NULL DEFAULT 0 CHECK (reserved_usd >= 0),
    period_start  timestamptz NOT NULL DEFAULT '-infinity',
    reached_at    timestamptz                            -- since when it stops its work
) WITH (fillfactor = 50);
CREATE INDEX budgets_of_tenant ON embedmill.budgets (tenant_id);
CREATE UNIQUE INDEX budgets_tenant ON embedmill.budgets (tenant_id) WHERE job_id IS NULL;
CREATE TABLE embedmill.budget_reservations (
    call_id     uuid NOT NULL,
    budget_id   bigint NOT NULL REFERENCES embedmill.budgets ON DELETE CASCADE,
    tenant_id   integer NOT NULL,
    worker_id   uuid NOT NULL,
    amount_usd  numeric NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (call_id, budget_id)
);
CREATE INDEX budget_reservations_worker ON embedmill.budget_reservations (worker_id);

-- Limits of the service for a tenant; NULL: the settings' own.
ALTER TABLE embedmill.tenants
    ADD COLUMN requests_per_minute integer CHECK (requests_per_minute > 0),
    ADD COLUMN max_file_bytes bigint CHECK (max_file_bytes > 0),
    ADD COLUMN max_staged_jobs integer CHECK (max_staged_jobs > 0);

-- Functions whose shape changes; a fresh database has none yet.
DROP FUNCTION IF EXISTS embedmill.cancel_document_items(bigint, text);

CREATE INDEX llm_usage_log_session ON embedmill.llm_usage_log (session_id) WHERE session_id IS NOT NULL;

-- (access) What the API shows of items that have ended: pages of a tenant, of a source, of what failed, of a batch,
-- newest first. The id is unique all the same: an item has one, and ends once.
ALTER TABLE embedmill.embedding_queue_history DROP CONSTRAINT embedding_queue_history_pkey;
CREATE INDEX embedding_queue_history_item ON embedmill.embedding_queue_history (tenant_id, id);
CREATE INDEX embedding_queue_history_source ON embedmill.embedding_queue_history (tenant_id, source_type, source_id, id);
DROP INDEX embedmill.embedding_queue_history_unfinished;
CREATE INDEX embedding_queue_history_unfinished ON embedmill.embedding_queue_history (tenant_id, id)
    WHERE status IN ('failed', 'cancelled');
CREATE INDEX embedding_queue_history_failed ON embedmill.embedding_queue_history (tenant_id, id)
    WHERE status = 'failed';
DROP INDEX embedmill.embedding_queue_history_batch;
CREATE INDEX embedding_queue_history_batch ON embedmill.embedding_queue_history (batch_id, id)
    WHERE batch_id IS NOT NULL;
