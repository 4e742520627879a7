"""Finds the files to ingest. Owns the walk and the patterns; must not open a file."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from embedmill.errors import ConfigurationError


class Found(msgspec.Struct, frozen=True):
    """What a set of paths holds: the files, absolute and sorted; the folders that were looked through whole
    (with a slash at the end), in which a missing document counts as deleted; and what was left aside."""

    files: list[Path]
    folders: list[str]
    skipped_folders: int
    unreadable_folders: list[tuple[Path, str]]


def find_files(paths: Sequence[Path], *, recursive: bool, pattern: str | None) -> Found:
    """Expand files and folders. Hidden files and folders are left out unless they are named themselves.

    `pattern` is matched against the file's name, or against its path below the folder where it has a slash.
    Raises ConfigurationError for a path that does not exist.
    """
    files: dict[Path, None] = {}
    folders: list[str] = []
    unreadable: list[tuple[Path, str]] = []
    skipped = 0
    for given in paths:
        path = Path(os.path.abspath(given))  # noqa: PTH100 - keeps symbolic links as they were named
        if path.is_dir():
            folders.append(str(path).rstrip("/") + "/")
            for found in _walk(path, path, recursive, unreadable):
                if found is None:
                    skipped += 1
                elif _matches(found.relative_to(path), pattern):
                    files[found] = None
        elif path.exists() or path.is_symlink():
            files[path] = None
        else:
            raise ConfigurationError(f"{given} does not exist")
    return Found(sorted(files), folders, skipped, unreadable)


def _walk(
    root: Path, folder: Path, recursive: bool, unreadable: list[tuple[Path, str]]
) -> Iterator[Path | None]:
    """Files below a folder; None for each subfolder that was not entered. Links to folders are not followed:
    they can form a circle."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        unreadable.append((folder, error.strerror or str(error)))
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            if recursive:
                yield from _walk(root, Path(entry.path), recursive, unreadable)
            else:
                yield None
        elif not entry.is_dir():
            yield Path(entry.path)


def _matches(relative: Path, pattern: str | None) -> bool:
    if pattern is None:
        return True
    subject = relative.as_posix() if "/" in pattern else relative.name
    return fnmatch.fnmatchcase(subject, pattern)


def missing_sources(
    known: Iterable[tuple[int, str]], found: Found, *, recursive: bool, pattern: str | None
) -> list[tuple[int, str]]:
    """Of the known documents (id, path), those whose file would have been found and was not."""
    present = {str(path) for path in found.files}
    gone = []
    for document_id, source_id in known:
        if source_id in present:
            continue
        for folder in found.folders:
            if not source_id.startswith(folder):
                continue
            relative = Path(source_id[len(folder) :])
            if (recursive or len(relative.parts) == 1) and _matches(relative, pattern):
                gone.append((document_id, source_id))
                break
    return gone
