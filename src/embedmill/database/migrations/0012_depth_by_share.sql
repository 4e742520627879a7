-- embedmill: compatible-since 0011

-- (search) It goes by the share that a filter leaves now, and no longer by whether there is one.
DROP FUNCTION IF EXISTS embedmill.scan_depth(double precision, integer, boolean);
