"""Which store a URL names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from embedmill.adapters.blobs.local import LocalOriginals
from embedmill.adapters.blobs.remote import RemoteOriginals
from embedmill.adapters.blobs.store import build_originals
from embedmill.errors import ConfigurationError


@pytest.mark.parametrize(
    ("url", "place"),
    [
        (None, "/data/originals"),
        ("", "/data/originals"),
        ("file:///mnt/shared%20disk/originals", "/mnt/shared disk/originals"),
        ("file://localhost/mnt", "/mnt"),
    ],
)
def test_folders(url: str | None, place: str) -> None:
    originals = build_originals(url, Path("/data"))
    assert isinstance(originals, LocalOriginals)
    assert originals.place == place


@pytest.mark.parametrize(
    "url", ["s3://bucket", "s3://bucket/", "s3://bucket/a/b/", "gs://bucket/prefix", "az://container/prefix"]
)
def test_buckets(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "somebody")
    originals = build_originals(url, tmp_path)
    assert isinstance(originals, RemoteOriginals)
    assert originals.place == url.rstrip("/")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "originals", "/mnt/originals", "s3:", "s3://", "s3:///prefix", "ftp://host/x", "https://host/bucket",
        "memory:///", "file://", "file:///", "file://other/mnt", "s3://key:secret@bucket/x", "s3://key@bucket",
        "s3://bucket/x?AWS_SECRET_ACCESS_KEY=secret", "s3://bucket#secret", "s3://bucket/../x", "s3://bucket/%2e%2e/x",
        "s3://[bucket",
    ],
)  # fmt: skip
def test_what_names_no_store_is_refused_and_no_secret_is_said(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="EMBEDMILL_ORIGINALS_URL") as refused:
        build_originals(url, tmp_path)
    assert "secret" not in str(refused.value)


def test_an_azure_container_without_an_account_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Account must be specified"):
        build_originals("az://container", tmp_path)


def test_a_folder_needs_no_obstore() -> None:
    program = (
        "import sys; sys.modules['obstore'] = None\n"
        "from pathlib import Path\n"
        "from embedmill.adapters.blobs.store import build_originals\n"
        "from embedmill.errors import ConfigurationError\n"
        "build_originals(None, Path('/data'))\n"
        "try: build_originals('s3://bucket', Path('/data'))\n"
        "except ConfigurationError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'embedmill[service]'" in done.stdout
