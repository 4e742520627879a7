"""Which keys a store takes. Owns the one pattern that all paths and object names are made by: whatever else a
caller brings, `../`, an absolute path, a name that a user wrote, is refused before anything is touched."""

from __future__ import annotations

import re

from embedmill.errors import StorageError

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_KEY = re.compile(rf"tenants/[0-9]{{1,19}}/{_UUID}")
_KEY_OR_REMAINS = re.compile(rf"tenants/[0-9]{{1,19}}/{_UUID}(\.part-[0-9a-f]{{8}})?")
_PREFIX = re.compile(r"tenants/([0-9]{1,19}/)?")


def check_key(key: str) -> str:
    """The key, if it is one of `ports.original_key`. Raises StorageError(`bad_key`)."""
    if _KEY.fullmatch(key) is None:
        raise _refused(key)
    return key


def check_removable(key: str) -> str:
    """The key, if it is that of an original or of the remains of its upload. Raises StorageError(`bad_key`)."""
    if not is_removable(key):
        raise _refused(key)
    return key


def is_removable(key: str) -> bool:
    return _KEY_OR_REMAINS.fullmatch(key) is not None


def check_prefix(prefix: str) -> str:
    """The prefix, if it is that of all tenants or of one. Raises StorageError(`bad_key`)."""
    if _PREFIX.fullmatch(prefix) is None:
        raise StorageError("bad_key", f'a prefix is "tenants/" or "tenants/<id>/", not {prefix[:100]!r}')
    return prefix


def _refused(key: str) -> StorageError:
    return StorageError("bad_key", f'an original is kept under "tenants/<id>/<uuid>", not {key[:100]!r}')
