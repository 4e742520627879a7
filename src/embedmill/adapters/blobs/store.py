"""Which store of originals there is. Owns the choice by URL; the kinds are loaded only when they are wanted."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

from embedmill.adapters.blobs.local import LocalOriginals
from embedmill.errors import ConfigurationError
from embedmill.ports import Originals

_BUCKETS = {"s3", "s3a", "gs", "az", "azure", "abfs", "abfss"}


def build_originals(url: str | None, data_dir: Path) -> Originals:
    """The store that the URL names; None is the folder `<data_dir>/originals`.

    `s3://bucket/prefix`, `gs://bucket/prefix` and `az://container/prefix` take credentials, region and endpoint
    from the environment variables of their provider; `file:///folder` is another folder. Nothing is touched or
    asked yet: `check()` does that. Raises ConfigurationError for a URL that names no store.
    """
    if not url:
        return LocalOriginals(data_dir / "originals")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"EMBEDMILL_ORIGINALS_URL is no URL: {error}") from error
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and len(parts.path) > 1:
        return LocalOriginals(Path(unquote(parts.path)))
    if parts.scheme not in _BUCKETS or not parts.hostname:
        raise ConfigurationError(
            "EMBEDMILL_ORIGINALS_URL is s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///folder"
        )
    if parts.query or parts.fragment or parts.password or (parts.username and parts.scheme[:4] != "abfs"):
        raise ConfigurationError(
            "EMBEDMILL_ORIGINALS_URL holds no credentials and no options: those come from the environment variables "
            "of the provider, such as AWS_ACCESS_KEY_ID"
        )
    if ".." in unquote(parts.path).split("/"):
        raise ConfigurationError("EMBEDMILL_ORIGINALS_URL has '..' in its prefix: name the prefix itself")
    return _bucket(url, data_dir / "scratch")


def _bucket(url: str, scratch_dir: Path) -> Originals:
    try:
        from obstore.exceptions import BaseError  # noqa: PLC0415  # an extra, and slow to load
        from obstore.store import from_url  # noqa: PLC0415

        from embedmill.adapters.blobs.remote import RemoteOriginals  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError("a bucket for originals needs: pip install 'embedmill[service]'") from error
    try:
        store = from_url(
            url,
            # Of a whole request, a large download included; one that stands still ends by read_timeout.
            # allow_http concerns only an endpoint that somebody set, such as a MinIO beside: that of a provider
            # is https. (These options replace AWS_ALLOW_HTTP and the like, so it has to be said here.)
            client_options={
                "timeout": timedelta(hours=2),
                "read_timeout": timedelta(seconds=60),
                "connect_timeout": timedelta(seconds=5),
                "allow_http": True,
            },
            retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=60)},
        )
    except (BaseError, ValueError) as error:
        said = str(error).partition("\n")[0]
        raise ConfigurationError(f"EMBEDMILL_ORIGINALS_URL cannot be used: {said}") from error
    return RemoteOriginals(store, url.rstrip("/"), scratch_dir)
