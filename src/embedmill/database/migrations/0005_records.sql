-- Records: tables and shard feeds whose rows are kept embedded; several generations of a pipeline side by side.

-- Where records come from. `name` is the source_type of the documents that are made of its rows: `public.jobs`, or the
-- shard type. Whoever writes what was read holds this row, so that two readers of one source take turns.
CREATE TABLE embedmill.record_sources (
    id               integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id        integer NOT NULL REFERENCES embedmill.tenants ON DELETE CASCADE,
    pipeline_id      integer NOT NULL REFERENCES embedmill.pipelines ON DELETE CASCADE,
    kind             text NOT NULL CHECK (kind IN ('table', 'shards')),
    name             text NOT NULL CHECK (name <> '' AND octet_length(name) <= 255),
    template         text,                          -- `$title\n\n$description`; NULL (shards): the content as it is
    priority         embedmill.queue_priority NOT NULL DEFAULT 'medium',    -- of changes
    paused_at        timestamptz,
    trouble          text,                          -- why it is not read, or not as it should be: one sentence
    rows             bigint,                        -- that are to be embedded; NULL: not counted yet
    documents        bigint NOT NULL DEFAULT 0,     -- of these, read
    reader_id        uuid,                          -- the worker that reads its changes
    reader_token     bigint,
    reader_deadline  timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    CHECK ((reader_token IS NULL) = (reader_id IS NULL)),
    UNIQUE (pipeline_id, name)
) WITH (fillfactor = 50);
CREATE INDEX record_sources_tenant ON embedmill.record_sources (tenant_id, name);

-- A user's own table. Its rows' key as text is their documents' source_id: of one column as it is, of several as a
-- JSON array of texts.
CREATE TABLE embedmill.table_sources (
    record_source_id  integer PRIMARY KEY REFERENCES embedmill.record_sources ON DELETE CASCADE,
    tenant_id         integer NOT NULL,
    relation          regclass NOT NULL,            -- survives that the table is renamed
    key_columns       text[] NOT NULL,
    key_types         text[] NOT NULL,
    columns           text[] NOT NULL,              -- of the template, and what else a change of is heeded
    metadata_columns  text[] NOT NULL DEFAULT '{}',
    condition         text,                         -- SQL: rows for which it does not hold are not embedded
    target_column     text,                         -- NULL: vectors stand beside the chunks
    adopts            boolean NOT NULL DEFAULT false,    -- vectors that stand in that column already are believed
    relations         oid[] NOT NULL DEFAULT '{}',  -- the table, its partitions and children that carry the triggers
    watched           jsonb NOT NULL DEFAULT '{}',  -- of each column that is used its number and type, when it was added
    drift             text,                         -- what check_table_sources made record_sources.trouble
    counted_at        pg_snapshot                   -- what `rows` already counted when it was counted in full
);
CREATE INDEX table_sources_relation ON embedmill.table_sources (relation);

-- What other systems push: the newest version of each shard, and that it was deleted, so that a late older version does
-- not bring it back.
CREATE TABLE embedmill.shards (
    record_source_id  integer NOT NULL REFERENCES embedmill.record_sources ON DELETE CASCADE,
    shard_id          text NOT NULL CHECK (octet_length(shard_id) <= 2000),
    tenant_id         integer NOT NULL,
    version           bigint NOT NULL,
    content           text,                         -- NULL: `fields` are put into the source's template
    fields            jsonb,
    metadata          jsonb NOT NULL DEFAULT '{}',
    reject_reason     text,                         -- why its content could not even be stored
    deleted_at        timestamptz,
    updated_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (record_source_id, shard_id)
) WITH (fillfactor = 90);
CREATE INDEX shards_deleted ON embedmill.shards (deleted_at) WHERE deleted_at IS NOT NULL;

-- That rows have changed: written by triggers in the writer's own transaction, a row here for up to 500 there, and
-- taken away by whoever commits what was read. Says only which rows to look at; what they hold is read then.
CREATE TABLE embedmill.record_changes (
    record_source_id  integer NOT NULL,
    id                bigint GENERATED ALWAYS AS IDENTITY,    -- in the order of the writes
    tenant_id         integer NOT NULL,
    operation         "char" NOT NULL CHECK (operation IN ('I', 'U', 'D', 'T')),    -- T: truncated, all are gone
    keys              text[] NOT NULL,              -- the documents' source_ids
    xact              xid8 NOT NULL DEFAULT pg_current_xact_id(),
    changed_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (record_source_id, id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, toast_tuple_target = 8160);
-- Written by users' statements and soon gone: compressing it would only cost them time.
ALTER TABLE embedmill.record_changes ALTER COLUMN keys SET STORAGE EXTERNAL;

-- The walk over the rows of a source that have no document yet, and its limits: they hold whoever carries it out.
-- Runs while started_at stands and ended_at does not. NULL in a limit: none.
CREATE TABLE embedmill.backfills (
    record_source_id  integer PRIMARY KEY REFERENCES embedmill.record_sources ON DELETE CASCADE,
    tenant_id         integer NOT NULL,
    after_key         text[],                       -- the last row that was walked past; NULL: at the beginning
    started_at        timestamptz,
    ended_at          timestamptz,
    end_reason        text,                         -- done, or which limit, or that a person stopped it
    rereads           boolean NOT NULL DEFAULT false,   -- also the rows that have a document: their text may differ now
    batch_size        integer NOT NULL DEFAULT 500 CHECK (batch_size BETWEEN 1 AND 10000),
    batches_left      bigint CHECK (batches_left >= 0),
    rows_left         bigint CHECK (rows_left >= 0),
    rows_per_second   double precision CHECK (rows_per_second > 0),
    delay_seconds     double precision NOT NULL DEFAULT 0 CHECK (delay_seconds >= 0),
    ends_before       timestamptz,
    budget_usd        numeric CHECK (budget_usd >= 0),
    spent_usd_before  numeric,                      -- what the source's pipeline had spent when it started
    next_batch_at     timestamptz NOT NULL DEFAULT now(),
    rows_walked       bigint NOT NULL DEFAULT 0,
    rows_read         bigint NOT NULL DEFAULT 0,    -- of these, had no document and were read
    schedule          text,                         -- cron, UTC: when it begins anew
    next_start_at     timestamptz
) WITH (fillfactor = 50);

-- (generations) Each has its own plan of chunks; those of one plan share the chunks. A pipeline keeps all of its
-- generations current: the live one, the next that is built, the one before until it is pruned.
ALTER TABLE embedmill.generations
    ADD COLUMN chunk_set integer NOT NULL DEFAULT 1,
    ADD COLUMN chunk_tokens integer CHECK (chunk_tokens BETWEEN 8 AND 100000),
    ADD COLUMN chunk_overlap integer CHECK (chunk_overlap >= 0),
    ADD COLUMN price_per_million_tokens numeric CHECK (price_per_million_tokens >= 0),   -- NULL: unknown
    ADD COLUMN budget_usd numeric CHECK (budget_usd >= 0),         -- the most that its building may cost
    ADD COLUMN build_after_document bigint,                        -- how far the building has come
    ADD COLUMN build_started_at timestamptz,                       -- NULL: it was the first, and was not built
    ADD COLUMN build_ended_at timestamptz,
    ADD COLUMN build_stopped_reason text,                          -- why it does not go on: its budget, a person
    ADD COLUMN comparison jsonb,                                   -- with the live one, before the switch
    ADD COLUMN switched_at timestamptz;                            -- since when, or until when, it was the live one
UPDATE embedmill.generations g
   SET chunk_tokens = p.chunk_tokens, chunk_overlap = p.chunk_overlap,
       price_per_million_tokens = p.price_per_million_tokens
  FROM embedmill.pipelines p WHERE p.id = g.pipeline_id;
ALTER TABLE embedmill.generations
    ALTER COLUMN chunk_tokens SET NOT NULL, ALTER COLUMN chunk_overlap SET NOT NULL;

-- Of which plan a chunk is, and of which source of records (0: of none, a document that was uploaded or ingested).
ALTER TABLE embedmill.knowledge_chunks
    ADD COLUMN chunk_set integer NOT NULL DEFAULT 1,
    ADD COLUMN record_source_id integer NOT NULL DEFAULT 0;
ALTER TABLE embedmill.knowledge_documents ADD COLUMN record_source_id integer NOT NULL DEFAULT 0;
CREATE INDEX knowledge_documents_record ON embedmill.knowledge_documents (record_source_id, id) WHERE record_source_id <> 0;
CREATE INDEX knowledge_documents_unreadable ON embedmill.knowledge_documents (record_source_id, error_reason)
    WHERE error_reason IS NOT NULL;
CREATE INDEX knowledge_chunks_refused ON embedmill.knowledge_chunks (record_source_id, error_reason)
    WHERE error_reason IS NOT NULL;
-- What a document is cut from beside its text, so that it can be cut anew without being parsed anew.
ALTER TABLE embedmill.knowledge_document_texts
    ADD COLUMN is_markdown boolean NOT NULL DEFAULT false,
    ADD COLUMN places jsonb;                        -- core.documents.Place, each an array; NULL: not kept by an older version

-- Coverage by source of records as well; 0 is what belongs to none.
ALTER TABLE embedmill.coverage_counters
    ADD COLUMN record_source_id integer NOT NULL DEFAULT 0,
    DROP CONSTRAINT coverage_counters_pkey,
    ADD PRIMARY KEY (generation_id, record_source_id);

-- What was embedded and refused in each minute, for charts and rates. Kept for a week.
CREATE TABLE embedmill.embedding_minutes (
    minute            timestamptz NOT NULL,
    generation_id     integer NOT NULL REFERENCES embedmill.generations ON DELETE CASCADE,
    record_source_id  integer NOT NULL DEFAULT 0,
    tenant_id         integer NOT NULL,
    embedded          bigint NOT NULL DEFAULT 0,    -- chunks
    unembeddable      bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (generation_id, record_source_id, minute)
) WITH (fillfactor = 50);
CREATE INDEX embedding_minutes_age ON embedmill.embedding_minutes (minute);

-- What the last audit found, and what became of it.
CREATE TABLE embedmill.audits (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id         integer NOT NULL REFERENCES embedmill.tenants ON DELETE CASCADE,
    pipeline_id       integer REFERENCES embedmill.pipelines ON DELETE CASCADE,
    record_source_id  integer,
    started_at        timestamptz NOT NULL DEFAULT now(),
    ended_at          timestamptz,
    is_repair         boolean NOT NULL,
    findings          jsonb NOT NULL DEFAULT '[]',  -- of each kind: how many, examples, how many were mended
    progress          jsonb NOT NULL DEFAULT '{}',  -- how far it has come: an audit that is cut off goes on
    actor             text NOT NULL
);
CREATE INDEX audits_recent ON embedmill.audits (tenant_id, started_at);

-- Documents whose chunks of one plan are of an older text, or not there yet: the builder of that plan's generation cuts
-- them from the stored text.
CREATE TABLE embedmill.stale_cuts (
    document_id  bigint NOT NULL REFERENCES embedmill.knowledge_documents ON DELETE CASCADE,
    chunk_set    integer NOT NULL,
    pipeline_id  integer NOT NULL,
    tenant_id    integer NOT NULL,
    marked_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (document_id, chunk_set)
);
CREATE INDEX stale_cuts_pipeline ON embedmill.stale_cuts (pipeline_id, chunk_set, document_id);

-- In which column of its table a source's vectors of a generation stand, where they stand there. Without a row they
-- stand beside the chunks.
CREATE TABLE embedmill.target_columns (
    record_source_id  integer NOT NULL REFERENCES embedmill.record_sources ON DELETE CASCADE,
    generation_id     integer NOT NULL REFERENCES embedmill.generations ON DELETE CASCADE,
    tenant_id         integer NOT NULL,
    column_name       text NOT NULL,
    trouble           text,                         -- why nothing can be written: one sentence
    retry_at          timestamptz,                  -- until then nothing is tried; what is embedded waits
    PRIMARY KEY (record_source_id, generation_id)
) WITH (fillfactor = 50);
CREATE INDEX target_columns_generation ON embedmill.target_columns (generation_id);

-- Rows whose column is to be brought to what is right: paid vectors that wait beside the chunks because the row was
-- locked or the table refused them, and columns that are to become NULL.
CREATE TABLE embedmill.column_debts (
    record_source_id  integer NOT NULL,
    generation_id     integer NOT NULL,
    key               text NOT NULL,                -- the document's source_id
    tenant_id         integer NOT NULL,
    due_at            timestamptz NOT NULL DEFAULT now(),
    attempts          integer NOT NULL DEFAULT 0,
    error             text,                         -- why the table refused this row
    PRIMARY KEY (record_source_id, generation_id, key),
    FOREIGN KEY (record_source_id, generation_id) REFERENCES embedmill.target_columns ON DELETE CASCADE
) WITH (fillfactor = 70);
CREATE INDEX column_debts_due ON embedmill.column_debts (due_at);

-- Functions whose shape changes; a fresh database has none yet.
DROP FUNCTION IF EXISTS embedmill.count_coverage(integer, integer, integer);
DROP FUNCTION IF EXISTS embedmill.create_generation(integer, jsonb, integer, text);
