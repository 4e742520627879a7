-- What the dashboard's pages are read by.

-- (coverage) Made anew with the number of one source; what it called for each source is a part of it now.
DROP FUNCTION IF EXISTS embedmill.source_coverage(integer);
DROP FUNCTION IF EXISTS embedmill.unread_changes(integer);
DROP FUNCTION IF EXISTS embedmill.unembeddable_reasons(integer, integer, integer);
