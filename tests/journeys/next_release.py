"""The release that comes next: a copy of this source tree with one more migration, a changed function and a new one.
Owns the copy and processes of it; must not assert."""

from __future__ import annotations

import shutil
from pathlib import Path

import embedmill
from embedmill.database.migrator import newest_migration
from tests.journeys.service_process import ServiceProcess

SOURCE = Path(embedmill.__file__).parent
NEXT_VERSION = "999.0.0"
# Columns on the hottest tables, and one that functions return whole.
_MIGRATION = """-- embedmill: compatible-since {ours:04}
ALTER TABLE embedmill.embedding_queue ADD COLUMN release_note text;
ALTER TABLE embedmill.embedding_queue_history ADD COLUMN release_note text;
ALTER TABLE embedmill.knowledge_chunks ADD COLUMN release_note text;
ALTER TABLE embedmill.knowledge_documents ADD COLUMN release_note text;
ALTER TABLE embedmill.ingestion_jobs ADD COLUMN release_note text;
ALTER TABLE embedmill.generations ADD COLUMN release_note text;
ALTER TABLE embedmill.quotas ADD COLUMN release_note text;
ALTER TABLE embedmill.embedding_queue_workers ADD COLUMN release_note text;
"""
_NEW_FUNCTION = """
CREATE OR REPLACE FUNCTION embedmill.with_release_note(p_metadata jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(p_metadata, '{}') || '{"release": "next"}'
$$;
"""
_OLD_WORDS = "coalesce(p_error_message, e.error_message), e.metadata"
_NEW_WORDS = "coalesce(p_error_message, e.error_message), embedmill.with_release_note(e.metadata)"
ENDED_BY_NEW_FUNCTIONS = (
    "SELECT count(*) FROM embedmill.embedding_queue_history WHERE metadata ->> 'release' = 'next'"
)


class NextRelease:
    """A copy in `folder`."""

    def __init__(self, folder: Path) -> None:
        package = folder / "embedmill"
        shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
        ours = newest_migration()
        self.number = ours + 1
        database = package / "database"
        (database / "migrations" / f"{self.number:04}_release_notes.sql").write_text(
            _MIGRATION.format(ours=ours)
        )
        (database / "functions" / "05_release_notes.sql").write_text(_NEW_FUNCTION)
        _replace(database / "functions" / "31_ending.sql", _OLD_WORDS, _NEW_WORDS)
        _replace(package / "__init__.py", f'"{embedmill.__version__}"', f'"{NEXT_VERSION}"')
        self.environment = {"PYTHONPATH": str(folder)}


class Release(ServiceProcess):
    """A service with its workers, of one release; what it says stands in a file of its own."""

    def __init__(self, name: str, url: str, data_dir: Path, *arguments: str, **settings: str) -> None:
        super().__init__(url, data_dir, *arguments, **settings)
        self._log = data_dir.with_name(f"{name}.log")


class Balancer:
    """What stands before the services: new requests go to the one that was named last."""

    def __init__(self, first: ServiceProcess) -> None:
        self.target = first

    @property
    def address(self) -> str | None:
        return self.target.address


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise AssertionError(f"{path.name} holds {old!r} {text.count(old)} times")
    path.write_text(text.replace(old, new), encoding="utf-8")
