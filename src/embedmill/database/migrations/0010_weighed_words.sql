-- embedmill: compatible-since 0009

-- (search) In its place words are weighed (weighed_words).
DROP FUNCTION IF EXISTS embedmill.telling_words(integer, integer, integer, tsquery);
