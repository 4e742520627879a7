"""The base of all records."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, TypeAlias

import msgspec

Moment: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]
"""A point in time, always with its time zone."""


class Record(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Something the service told. What it holds that we do not know is passed over."""
