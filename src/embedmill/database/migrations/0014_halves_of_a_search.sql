-- embedmill: compatible-since 0013

-- (search) They can be told what a filter leaves, and be asked for a part of it; those who do not say are served as before.
DROP FUNCTION IF EXISTS embedmill.search_vectors(integer, text, integer, bigint, text, jsonb);
DROP FUNCTION IF EXISTS embedmill.search_text(integer, text, integer, bigint, text, jsonb);
