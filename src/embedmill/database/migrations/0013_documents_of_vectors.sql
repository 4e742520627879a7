-- embedmill: compatible-since 0012

-- (search) Whose document a vector is, for filters that leave many of them. Of vectors that stand already, and of those that
-- an older release writes, nobody knows it (NULL): they are found by their chunk.
DO $$
DECLARE
    v_table name;
BEGIN
    FOR v_table IN SELECT relname FROM pg_class
                    WHERE relnamespace = 'embedmill'::regnamespace AND relkind = 'r' AND relname ~ '^vectors_[0-9]+$'
    LOOP
        EXECUTE format('ALTER TABLE embedmill.%I ADD COLUMN document_id bigint', v_table);
    END LOOP;
END
$$;

-- (search) It asks how the index was built.
DROP FUNCTION IF EXISTS embedmill.scan_depth(double precision, integer, double precision);
