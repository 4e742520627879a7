"""What the service answers, as frozen records: camelCase outside, snake_case here. Values only; the names follow the
schemas of /openapi.json, and a test holds the fields of each against them.

A field that a newer service adds is passed over; words that a newer service may add to (a status, a role) are strings.
"""
