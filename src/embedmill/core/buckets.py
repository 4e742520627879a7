"""Token buckets: how much may be done now when so much may be done a minute. Pure; time is an argument."""

from __future__ import annotations

from dataclasses import dataclass

_SECONDS = 60.0


@dataclass(frozen=True)
class Bucket:
    """What was left at a moment. A full one holds a minute's worth: so much at once, and then at the steady rate."""

    level: float
    at_seconds: float


def take(bucket: Bucket | None, per_minute: int, now_seconds: float) -> tuple[Bucket, float]:
    """Take one from the bucket (None: a full one); what is left, and 0.0 where it was there, else the seconds after
    which it will be. A clock that goes back gives nothing; a limit that was lowered holds at once."""
    if bucket is None:
        bucket = Bucket(float(per_minute), now_seconds)
    passed = max(0.0, now_seconds - bucket.at_seconds)
    level = min(float(per_minute), bucket.level + passed * per_minute / _SECONDS)
    now_seconds = max(now_seconds, bucket.at_seconds)
    if level >= 1.0:
        return Bucket(level - 1.0, now_seconds), 0.0
    return Bucket(level, now_seconds), (1.0 - level) * _SECONDS / per_minute


def is_full(bucket: Bucket, per_minute: int, now_seconds: float) -> bool:
    """Whether it need not be remembered any more: a new one would be the same."""
    return bucket.level + (now_seconds - bucket.at_seconds) * per_minute / _SECONDS >= per_minute
