"""The pepper: the secret under which keys are hashed, so that a copy of the database lets nobody in. Owns where it
comes from and that it is made once; must not log it, nor write it anywhere but its own file."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import tempfile
from pathlib import Path

from embedmill.errors import ConfigurationError
from embedmill.settings import read_secret

VARIABLE = "EMBEDMILL_PEPPER_TOKEN"
_BYTES = 32
_FEWEST_CHARACTERS = 32


def read_pepper(data_dir: Path) -> bytes:
    """The pepper: that of EMBEDMILL_PEPPER_TOKEN, else that of the file `pepper` in `data_dir`, made where there is
    none. Service processes that share a database must share it. Raises ConfigurationError."""
    given = read_secret(VARIABLE)
    if given is not None:
        return _checked_variable(given)
    path = data_dir / "pepper"
    try:
        return _checked_file(path)
    except FileNotFoundError:
        pass
    try:
        _create(path)
        return _checked_file(path)
    except OSError as error:
        raise ConfigurationError(
            f"the secret for API keys cannot be kept in {path}: {error.strerror or error}. "
            f"Give this account the right to write there, or set {VARIABLE}"
        ) from error


def _checked_variable(value: str) -> bytes:
    pepper = value.strip().encode("utf-8", "surrogateescape")
    if len(pepper) < _FEWEST_CHARACTERS:
        raise ConfigurationError(
            f"{VARIABLE} is too short: {_FEWEST_CHARACTERS} characters or more, such as `openssl rand -hex 32` prints"
        )
    return pepper


def _checked_file(path: Path) -> bytes:
    """The file's bytes. Raises FileNotFoundError, and ConfigurationError for a file that cannot be used."""
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            pepper = stream.read(_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigurationError(
            f"the secret for API keys in {path} cannot be read: {error.strerror or error}. "
            f"Run embedmill as the account that owns it, or set {VARIABLE}"
        ) from error
    if len(pepper) != _BYTES:
        raise ConfigurationError(
            f"{path} should hold {_BYTES} bytes, and holds {'more' if len(pepper) > _BYTES else len(pepper)}. Put it "
            "back from a backup: with another one every API key has to be made again"
        )
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigurationError(
            f"{path} can be read by others: `chmod 600 {path}`, and make the API keys again if somebody may have"
        )
    return pepper


def _create(path: Path) -> None:
    """Write the file, whole or not at all. Where several do so at once, the first one's stands for all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Made by mkstemp with the mode 0600; it gets its name by a link, which never replaces what stands there.
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".pepper-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_bytes(_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        try:
            Path(path).hardlink_to(draft)
        except FileExistsError:
            return
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            _create_without_links(path, Path(draft).read_bytes())
        _sync_folder(path.parent)
    finally:
        Path(draft).unlink(missing_ok=True)


def _create_without_links(path: Path, pepper: bytes) -> None:
    """For file systems that know no links: made exclusively, written in one call."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(handle, "wb") as stream:
        stream.write(pepper)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """So that the name, too, survives a power cut: keys hashed under a lost pepper are lost."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
