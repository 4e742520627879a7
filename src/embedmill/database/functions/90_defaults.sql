-- What stands after the first migration: the tenant `default` and its pipeline on the local model.
DO $$
BEGIN
    INSERT INTO embedmill.tenants (slug) VALUES ('default') ON CONFLICT (slug) DO NOTHING;
    PERFORM embedmill.ensure_history_partitions();
    IF NOT EXISTS (SELECT FROM embedmill.pipelines) THEN
        PERFORM embedmill.create_pipeline(
            (SELECT id FROM embedmill.tenants WHERE slug = 'default'), 'default',
            '{"provider": "local", "model": "all-MiniLM-L6-v2", "dimensions": 384}',
            384, 'vector', 256, 32, 'english', 0, NULL, NULL, NULL, false);
    END IF;
END
$$;
