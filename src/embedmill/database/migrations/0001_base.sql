-- The house: tenants, pipelines and their generations, documents and chunks, the queue and its history,
-- workers, quotas, the usage ledger, dead letters. Frozen: changes come as the next number.
-- The vectors themselves stand in one typed table for each generation (functions/20_generations.sql).

CREATE EXTENSION IF NOT EXISTS vector;

CREATE TYPE embedmill.queue_priority AS ENUM ('high', 'medium', 'low');
CREATE TYPE embedmill.queue_operation AS ENUM ('INSERT', 'UPDATE', 'DELETE');
CREATE TYPE embedmill.queue_status AS ENUM
    ('pending', 'processing', 'rate_limited', 'completed', 'failed', 'cancelled');
CREATE TYPE embedmill.job_status AS ENUM
    ('staged', 'parsing', 'chunk_preview_ready', 'embedding_in_progress', 'completed', 'cancelled', 'failed');
CREATE TYPE embedmill.worker_status AS ENUM ('active', 'idle', 'stopped', 'error');

CREATE TABLE embedmill.tenants (
    id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slug        text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE embedmill.quotas (
    quota_key          text PRIMARY KEY,
    calls_per_minute   integer CHECK (calls_per_minute > 0),
    tokens_per_minute  integer CHECK (tokens_per_minute > 0),
    -- The two buckets: what may be spent now. Refilled from the database's clock at each grant.
    calls_level        double precision NOT NULL DEFAULT 0,
    tokens_level       double precision NOT NULL DEFAULT 0,
    refilled_at        timestamptz NOT NULL DEFAULT now(),
    cooldown_until     timestamptz NOT NULL DEFAULT '-infinity'
);

CREATE TABLE embedmill.pipelines (
    id                        integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id                 integer NOT NULL REFERENCES embedmill.tenants,
    name                      text NOT NULL CHECK (name ~ '^[a-z][a-z0-9_-]{0,39}$'),
    view_name                 text NOT NULL UNIQUE,
    chunk_tokens              integer NOT NULL CHECK (chunk_tokens BETWEEN 8 AND 100000),
    chunk_overlap             integer NOT NULL,
    text_search_config        regconfig NOT NULL DEFAULT 'english',
    price_per_million_tokens  numeric CHECK (price_per_million_tokens >= 0),  -- NULL: unknown
    quota_key                 text NOT NULL REFERENCES embedmill.quotas,
    current_generation_id     integer,
    created_at                timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pipelines_chunk_overlap_check CHECK (chunk_overlap BETWEEN 0 AND chunk_tokens / 2),
    UNIQUE (tenant_id, name)
);

-- `spec` is ports.ProviderSpec: all that decides a vector besides the text. `recipe_hash` is its hash:
-- two generations of one tenant with the same recipe may share vectors.
CREATE TABLE embedmill.generations (
    id            integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id     integer NOT NULL REFERENCES embedmill.tenants,
    pipeline_id   integer NOT NULL REFERENCES embedmill.pipelines ON DELETE CASCADE,
    number        integer NOT NULL,
    spec          jsonb NOT NULL,
    recipe_hash   text NOT NULL,
    dimensions    integer NOT NULL CHECK (dimensions > 0),
    storage       text NOT NULL CHECK (storage IN ('vector', 'halfvec')),
    created_at    timestamptz NOT NULL DEFAULT now(),
    CHECK ((storage = 'vector' AND dimensions <= 2000) OR (storage = 'halfvec' AND dimensions <= 4000)),
    UNIQUE (pipeline_id, number)
);
ALTER TABLE embedmill.pipelines
    ADD FOREIGN KEY (current_generation_id) REFERENCES embedmill.generations DEFERRABLE INITIALLY DEFERRED;

-- Coverage from counters, never from scans. Narrow and loose, so that every update is a HOT update.
CREATE TABLE embedmill.coverage_counters (
    generation_id       integer PRIMARY KEY REFERENCES embedmill.generations ON DELETE CASCADE,
    chunks              bigint NOT NULL DEFAULT 0,
    embedded            bigint NOT NULL DEFAULT 0,
    unembeddable        bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20);

CREATE TABLE embedmill.knowledge_documents (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id      integer NOT NULL REFERENCES embedmill.tenants,
    pipeline_id    integer NOT NULL REFERENCES embedmill.pipelines ON DELETE CASCADE,
    source_type    text NOT NULL,
    source_id      text NOT NULL CHECK (octet_length(source_id) <= 2000),  -- fits an index entry
    name           text NOT NULL,
    title          text,
    media_type     text,
    size_bytes     bigint,
    content_hash   bytea,                       -- sha256 of the bytes
    version        bigint NOT NULL DEFAULT 1,   -- rises with every change of content
    chunk_count    integer NOT NULL DEFAULT 0,
    error_reason   text,                        -- why it has no chunks, from errors.DocumentError
    error_message  text,
    metadata       jsonb NOT NULL DEFAULT '{}',
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    UNIQUE (pipeline_id, source_type, source_id)
) WITH (fillfactor = 90);

-- The text as parsed: chunks are cut from it by offsets, and can be cut again without parsing again.
CREATE TABLE embedmill.knowledge_document_texts (
    document_id  bigint PRIMARY KEY REFERENCES embedmill.knowledge_documents ON DELETE CASCADE,
    tenant_id    integer NOT NULL,
    text         text NOT NULL
);

CREATE TABLE embedmill.knowledge_chunks (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id     integer NOT NULL,
    pipeline_id   integer NOT NULL,
    document_id   bigint NOT NULL REFERENCES embedmill.knowledge_documents ON DELETE CASCADE,
    ordinal       integer NOT NULL,
    start_offset  integer NOT NULL,             -- characters into the document's text
    end_offset    integer NOT NULL,
    token_count   integer NOT NULL,             -- as the pipeline's model counts, special tokens included
    text_config   regconfig NOT NULL,
    content_hash  bytea NOT NULL,               -- first 16 bytes of sha256 of the text
    place_kind    text,                         -- page, slide, sheet, ...
    place_first   text,
    place_last    text,
    heading_path  text[] NOT NULL DEFAULT '{}',
    error_reason  text,                         -- why it cannot be embedded; its dead letter says more
    text          text NOT NULL,
    tsv           tsvector GENERATED ALWAYS AS (to_tsvector(text_config, text)) STORED
) WITH (fillfactor = 95);
CREATE INDEX knowledge_chunks_document ON embedmill.knowledge_chunks (document_id, ordinal);
-- Reuse: the same text within a tenant is paid for once.
CREATE INDEX knowledge_chunks_content ON embedmill.knowledge_chunks (tenant_id, content_hash);
CREATE INDEX knowledge_chunks_text ON embedmill.knowledge_chunks USING gin (tsv);

CREATE TABLE embedmill.ingestion_jobs (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id        integer NOT NULL REFERENCES embedmill.tenants,
    pipeline_id      integer NOT NULL REFERENCES embedmill.pipelines ON DELETE CASCADE,
    document_id      bigint NOT NULL REFERENCES embedmill.knowledge_documents ON DELETE CASCADE,
    batch_id         uuid,
    status           embedmill.job_status NOT NULL DEFAULT 'staged',
    priority         embedmill.queue_priority NOT NULL DEFAULT 'medium',
    total_chunks     integer NOT NULL DEFAULT 0,
    embedded_chunks  integer NOT NULL DEFAULT 0,   -- reused ones included
    reused_chunks    integer NOT NULL DEFAULT 0,
    failed_chunks    integer NOT NULL DEFAULT 0,
    total_tokens     bigint NOT NULL DEFAULT 0,
    paid_tokens      bigint NOT NULL DEFAULT 0,
    cost_usd         numeric,                      -- NULL: unknown
    error_stage      text,
    error_message    text,
    metadata         jsonb NOT NULL DEFAULT '{}',
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    completed_at     timestamptz,
    CHECK (embedded_chunks + failed_chunks <= total_chunks)
) WITH (fillfactor = 80);
CREATE INDEX ingestion_jobs_document ON embedmill.ingestion_jobs (document_id, created_at);
CREATE INDEX ingestion_jobs_recent ON embedmill.ingestion_jobs (tenant_id, created_at);
CREATE INDEX ingestion_jobs_batch ON embedmill.ingestion_jobs (batch_id);
CREATE INDEX ingestion_jobs_live ON embedmill.ingestion_jobs (pipeline_id)
    WHERE status NOT IN ('completed', 'cancelled', 'failed');

-- Live items only: narrow and hot. Ended ones move to embedding_queue_history.
-- A row that must wait (backoff, rate limit) is one whose available_at lies ahead: the clock frees it.
CREATE SEQUENCE embedmill.lease_tokens;
CREATE TABLE embedmill.embedding_queue (
    id                       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id                integer NOT NULL,
    generation_id            integer NOT NULL REFERENCES embedmill.generations ON DELETE CASCADE,
    document_id              bigint,
    part                     integer NOT NULL DEFAULT 0,
    first_ordinal            integer,
    last_ordinal             integer,
    content_version          bigint NOT NULL DEFAULT 1,
    status                   embedmill.queue_status NOT NULL DEFAULT 'pending'
                             CHECK (status IN ('pending', 'processing', 'rate_limited')),
    priority                 embedmill.queue_priority NOT NULL DEFAULT 'medium',
    operation                embedmill.queue_operation NOT NULL DEFAULT 'INSERT',
    retry_count              smallint NOT NULL DEFAULT 0,
    max_retries              smallint NOT NULL DEFAULT 3,
    crash_count              smallint NOT NULL DEFAULT 0,
    estimated_tokens         integer NOT NULL DEFAULT 0,
    actual_tokens            integer NOT NULL DEFAULT 0,
    rate_limit_delay_ms      integer,
    available_at             timestamptz NOT NULL DEFAULT now(),
    created_at               timestamptz NOT NULL DEFAULT now(),
    processing_started_at    timestamptz,
    lease_token              bigint,
    lease_deadline           timestamptz,
    worker_id                uuid,
    job_id                   uuid,
    batch_id                 uuid,
    source_type              text NOT NULL,
    source_id                text NOT NULL CHECK (octet_length(source_id) <= 2000),
    usage_type               text NOT NULL DEFAULT 'internal_ingestion',
    error_message            text,
    metadata                 jsonb NOT NULL DEFAULT '{}',
    CHECK ((status = 'processing') = (lease_token IS NOT NULL)),
    CHECK ((status = 'processing') = (worker_id IS NOT NULL))
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500,
        autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
-- One live item for each piece of a source: enqueueing again merges into it.
CREATE UNIQUE INDEX embedding_queue_piece
    ON embedmill.embedding_queue (generation_id, source_type, source_id, part);
CREATE INDEX embedding_queue_ready
    ON embedmill.embedding_queue (generation_id, priority, available_at, id)
    WHERE status IN ('pending', 'rate_limited');
CREATE INDEX embedding_queue_leased ON embedmill.embedding_queue (worker_id, lease_deadline)
    WHERE status = 'processing';
CREATE INDEX embedding_queue_document ON embedmill.embedding_queue (document_id);

CREATE TABLE embedmill.embedding_queue_history (
    id                       bigint NOT NULL,
    tenant_id                integer NOT NULL,
    generation_id            integer NOT NULL,
    document_id              bigint,
    part                     integer NOT NULL,
    status                   embedmill.queue_status NOT NULL
                             CHECK (status IN ('completed', 'failed', 'cancelled')),
    priority                 embedmill.queue_priority NOT NULL,
    operation                embedmill.queue_operation NOT NULL,
    retry_count              smallint NOT NULL,
    max_retries              smallint NOT NULL,
    crash_count              smallint NOT NULL,
    estimated_tokens         integer NOT NULL,
    actual_tokens            integer NOT NULL,
    vector_count             integer NOT NULL,
    rate_limit_delay_ms      integer,
    created_at               timestamptz NOT NULL,
    processing_started_at    timestamptz,
    processing_completed_at  timestamptz NOT NULL,
    worker_id                uuid,
    job_id                   uuid,
    batch_id                 uuid,
    source_type              text NOT NULL,
    source_id                text NOT NULL,
    error_message            text,
    metadata                 jsonb NOT NULL,
    PRIMARY KEY (id, processing_completed_at)
) PARTITION BY RANGE (processing_completed_at);
-- Nothing is ever refused for want of a day's partition.
CREATE TABLE embedmill.embedding_queue_history_rest PARTITION OF embedmill.embedding_queue_history DEFAULT;

CREATE TABLE embedmill.embedding_queue_workers (
    worker_id             uuid PRIMARY KEY,     -- one for each process start
    hostname              text NOT NULL,
    host_id               text NOT NULL,        -- boot and pid namespace: pids mean something only within it
    pid                   integer NOT NULL,
    pid_started_at        double precision NOT NULL,
    status                embedmill.worker_status NOT NULL DEFAULT 'active',
    heartbeat_at          timestamptz NOT NULL DEFAULT now(),
    heartbeat_interval_ms integer NOT NULL,
    started_at            timestamptz NOT NULL DEFAULT now(),
    stopped_at            timestamptz,
    current_work          text,
    tasks_processed       bigint NOT NULL DEFAULT 0,
    chunks_embedded       bigint NOT NULL DEFAULT 0,
    total_processing_ms   bigint NOT NULL DEFAULT 0,
    errors                bigint NOT NULL DEFAULT 0,
    rate_limits_hit       bigint NOT NULL DEFAULT 0,
    last_error            text,
    version               text NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE embedmill.llm_usage_log (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at     timestamptz NOT NULL DEFAULT now(),
    tenant_id      integer NOT NULL,
    pipeline_id    integer,
    generation_id  integer,
    worker_id      uuid,
    call_id        uuid NOT NULL UNIQUE,        -- the caller's own: a repeated write changes nothing
    session_id     uuid,                        -- the ingestion job, where the call served only one
    user_id        text,
    usage_type     text NOT NULL,
    action         text NOT NULL,
    provider       text NOT NULL,
    model          text NOT NULL,
    inputs         integer NOT NULL,
    input_tokens   integer NOT NULL,
    output_tokens  integer NOT NULL DEFAULT 0,
    total_tokens   integer GENERATED ALWAYS AS (input_tokens + output_tokens) STORED,
    latency_ms     integer NOT NULL,
    cost_usd       numeric,                     -- NULL: unknown
    error          text
);
CREATE INDEX llm_usage_log_recent ON embedmill.llm_usage_log (tenant_id, created_at);

CREATE TABLE embedmill.dead_letters (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id      integer NOT NULL,
    generation_id  integer NOT NULL REFERENCES embedmill.generations ON DELETE CASCADE,
    item_id        bigint NOT NULL,
    document_id    bigint,
    chunk_id       bigint REFERENCES embedmill.knowledge_chunks ON DELETE CASCADE,
    reason         text NOT NULL,
    error_message  text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX dead_letters_recent ON embedmill.dead_letters (tenant_id, created_at);
CREATE INDEX dead_letters_chunk ON embedmill.dead_letters (chunk_id);
