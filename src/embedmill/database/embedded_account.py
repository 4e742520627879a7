"""Which operating system account runs the embedded PostgreSQL, and what that account may reach.

PostgreSQL refuses to run as root, so root starts it as somebody else. Owns the choice of that account and
the narrowest opening of folders on its way; must not start processes of PostgreSQL or know its settings.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from embedmill.errors import DatabaseError

DEDICATED = "embedmill"
FALLBACKS = ("postgres", "nobody")

# The kernel's format of a POSIX access control list (linux/posix_acl_xattr.h): version, then entries.
_ACL_ATTRIBUTE = "system.posix_acl_access"
_ACL_VERSION = struct.pack("<I", 2)
_ACL_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NO_ID = 0xFFFFFFFF


@dataclass(frozen=True)
class Account:
    """The account of the server; `switch` is true where the caller is root and must change to it."""

    uid: int
    gid: int
    name: str
    switch: bool

    def own(self, path: Path) -> None:
        """Give the path to this account (nothing to do unless the caller is root)."""
        if self.switch:
            # Never through a link, which others than root may have put there.
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def choose_account(data_dir: Path, cluster: Path) -> Account:
    """The account that runs the server of this data directory.

    One's own account, unless one is root. Root takes the owner of the existing cluster, else the owner of
    the data directory where that is not root (so that `sudo` harms nobody's folder), else a system account
    `embedmill`, made if need be, else `postgres` or `nobody`. Raises DatabaseError when there is none, or
    when the cluster belongs to another account.
    """
    owner = _owner(cluster)
    if os.geteuid() != 0:
        if owner not in (None, os.geteuid()):
            raise DatabaseError(
                f"The database in {cluster} belongs to the account {_name(owner)}: run embedmill as that "
                "account, or set EMBEDMILL_DATA_DIR to a folder of your own."
            )
        return Account(os.geteuid(), os.getegid(), _name(os.geteuid()), switch=False)
    if owner:
        # In a container made anew the owner's number may have no name any more; the server needs none.
        return _entry(owner) or Account(owner, cluster.stat().st_gid, str(owner), switch=True)
    owner_of_all = _owner(data_dir)
    if owner_of_all and (entry := _entry(owner_of_all)):
        return entry
    for name in (DEDICATED, *FALLBACKS):
        entry = _named(name) or (_create(name) if name == DEDICATED else None)
        if entry is not None:
            return entry
    raise DatabaseError(
        "PostgreSQL does not run as root, and there is no other account to run it: make one "
        "(`useradd --system embedmill`), run embedmill as another user, or set EMBEDMILL_DATABASE_URL to a "
        "PostgreSQL of your own."
    )


def open_the_way(account: Account, directory: Path) -> None:
    """Let the account pass through (not list) every folder above and including `directory`.

    Nothing is opened to anybody else: an access control list entry for this one account, or, where the
    file system has none, the group of a folder that had given its group no right at all. Raises
    DatabaseError where neither is possible.
    """
    if not account.switch:
        return
    for folder in (*reversed(directory.parents), directory):
        facts = folder.stat()
        if _may_pass(account, facts):
            continue
        try:
            _grant_passage(folder, facts, account.uid)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.ENOSYS, errno.EROFS, errno.EINVAL):
                raise
            _grant_by_group(folder, facts, account)


def open_tree(account: Account, tree: Path) -> None:
    """Make an installed tree of programs readable to all, for an installation under `umask 077` is not."""
    if not account.switch or not tree.exists():
        return
    for path in (tree, *tree.rglob("*")):
        if path.is_symlink():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        wanted = mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
        if wanted != mode:
            path.chmod(wanted)


def _may_pass(account: Account, facts: os.stat_result) -> bool:
    if facts.st_uid == account.uid:
        return bool(facts.st_mode & stat.S_IXUSR)
    if facts.st_gid == account.gid and facts.st_mode & stat.S_IXGRP:
        return True
    return bool(facts.st_mode & stat.S_IXOTH)


def _grant_passage(folder: Path, facts: os.stat_result, uid: int) -> None:
    if sys.platform != "linux":
        raise OSError(errno.ENOTSUP, "no access control lists here", str(folder))
    entries = _read_acl(folder, facts)
    entries[(_USER, uid)] = entries.get((_USER, uid), 0) | 1
    entries[(_MASK, _NO_ID)] = entries.get((_MASK, _NO_ID), (facts.st_mode >> 3) & 7) | 1
    packed = b"".join(_ACL_ENTRY.pack(tag, bits, who) for (tag, who), bits in sorted(entries.items()))
    os.setxattr(folder, _ACL_ATTRIBUTE, _ACL_VERSION + packed)


def _read_acl(folder: Path, facts: os.stat_result) -> dict[tuple[int, int], int]:
    if sys.platform != "linux":
        return {}
    try:
        raw = os.getxattr(folder, _ACL_ATTRIBUTE)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        mode = facts.st_mode
        return {
            (_USER_OBJ, _NO_ID): (mode >> 6) & 7,
            (_GROUP_OBJ, _NO_ID): (mode >> 3) & 7,
            (_OTHER, _NO_ID): mode & 7,
        }
    return {(tag, who): bits for tag, bits, who in _ACL_ENTRY.iter_unpack(raw[len(_ACL_VERSION) :])}


def _grant_by_group(folder: Path, facts: os.stat_result, account: Account) -> None:
    refusal = DatabaseError(
        f"PostgreSQL runs here as the account {account.name}, which may not pass through {folder}. Set "
        "EMBEDMILL_DATA_DIR to a folder that it can reach (for example /var/lib/embedmill), or run embedmill "
        "as another user than root."
    )
    if facts.st_uid != 0 or facts.st_mode & stat.S_IRWXG:
        raise refusal
    try:
        os.chown(folder, -1, account.gid)
        folder.chmod(stat.S_IMODE(facts.st_mode) | stat.S_IXGRP)
    except OSError as error:
        raise refusal from error


def _create(name: str) -> Account | None:
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    try:
        subprocess.run(  # noqa: S603 - a fixed command
            [*command, "--shell", "/usr/sbin/nologin", name],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # Another process may have made it at the same moment: what counts is that it is there.
    return _named(name)


def _named(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(entry.pw_uid, entry.pw_gid, entry.pw_name, switch=True) if entry.pw_uid else None


def _entry(uid: int) -> Account | None:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return None
    return Account(entry.pw_uid, entry.pw_gid, entry.pw_name, switch=True)


def _owner(path: Path) -> int | None:
    try:
        return path.stat().st_uid
    except FileNotFoundError:
        return None


def _name(uid: int | None) -> str:
    entry = _entry(uid) if uid is not None else None
    return entry.name if entry else str(uid)
