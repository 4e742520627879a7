"""Counts tokens as a model does. Owns the choice of a tokenizer for a model, and says by its name where a
count is only an estimate; embeds nothing.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from embedmill.adapters.providers.catalog import facts_about
from embedmill.adapters.providers.models import BUNDLED, fetch_tokenizer, find_bundled, find_model
from embedmill.adapters.providers.onnx_engine import load_tokenizer
from embedmill.adapters.providers.sentence_model import lowercases
from embedmill.errors import ConfigurationError
from embedmill.ports import TokenCounter

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ENCODINGS = ("cl100k_base", "o200k_base", "voyage3_base")
ESTIMATE = "cl100k_base"
"""What counts for a model whose tokenizer we do not have: in English it is within a fifth of most."""

_CHARACTERS_AT_ONCE = 500_000  # an encoding takes some hundred bytes a token until it has been counted


def load_token_counter(
    tokenizer: str | None, model: str, provider: str, *, models_dir: Path | None = None
) -> TokenCounter:
    """The counter that a pipeline names by `tokenizer`, or the one that fits its model.

    `tokenizer` is an encoding ("cl100k_base"), the path of a tokenizer.json or of a folder that holds one, or
    a hub id. Raises ConfigurationError for one that cannot be had.
    """
    if tokenizer is not None:
        return _named(tokenizer, models_dir)
    if provider == "local":
        folder = find_model(model, models_dir).folder
        return FileTokenCounter(model, load_tokenizer(folder), lowercase=lowercases(folder))
    encoding = _encoding_of(model)
    if encoding is not None:
        return EncodingTokenCounter(encoding, encoding)
    bundled = BUNDLED.get(model.lower())
    folder_of_bundled = find_bundled(bundled) if bundled else None
    if folder_of_bundled is not None:
        return FileTokenCounter(model, load_tokenizer(folder_of_bundled))
    return EncodingTokenCounter(f"{ESTIMATE} (estimate)", ESTIMATE)


class FileTokenCounter:
    """Counts by a tokenizer.json, special tokens included. Safe in many threads; releases the GIL."""

    def __init__(self, name: str, tokenizer: Tokenizer, *, lowercase: bool = False) -> None:
        self._name = name
        self._tokenizer = tokenizer
        self._lowercase = lowercase

    @property
    def name(self) -> str:
        return self._name

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, however long: nothing is cut off."""
        counts: list[int] = []
        for batch in _in_batches(texts):
            valid = [_without_surrogates(text.lower() if self._lowercase else text) for text in batch]
            counts += map(len, self._tokenizer.encode_batch_fast(valid))
        return counts


class EncodingTokenCounter:
    """Counts by a byte pair encoding, to which the services that use one add no special tokens."""

    def __init__(self, name: str, encoding: str) -> None:
        self._name = name
        self._encoding = _load_encoding(encoding)

    @property
    def name(self) -> str:
        return self._name

    def count(self, texts: Sequence[str]) -> list[int]:
        count = self._encoding.count
        return [count(_without_surrogates(text)) for text in texts]


class _Encoding(Protocol):
    def count(self, text: str) -> int: ...


def _named(tokenizer: str, models_dir: Path | None) -> TokenCounter:
    if tokenizer in ENCODINGS:
        return EncodingTokenCounter(tokenizer, tokenizer)
    bundled = BUNDLED.get(tokenizer.lower())
    folder = find_bundled(bundled) if bundled else None
    if folder is not None:
        return FileTokenCounter(tokenizer, load_tokenizer(folder))
    path = Path(tokenizer).expanduser()
    if path.name == "tokenizer.json" and path.is_file():
        path = path.parent
    if path.is_dir():
        return FileTokenCounter(tokenizer, load_tokenizer(path), lowercase=lowercases(path))
    if path.is_absolute() or path.suffix == ".json" or tokenizer.startswith((".", "~")):
        raise ConfigurationError(f"There is no tokenizer at {path}: name a tokenizer.json or its folder.")
    hint = f"Name an encoding ({', '.join(ENCODINGS)}), a tokenizer.json or its folder instead."
    return FileTokenCounter(tokenizer, load_tokenizer(fetch_tokenizer(tokenizer, models_dir, hint=hint)))


def _encoding_of(model: str) -> str | None:
    facts = facts_about(model)
    if facts is not None and facts.tokenizer in ENCODINGS:
        return facts.tokenizer
    return "voyage3_base" if model.lower().rpartition("/")[2].startswith("voyage-3") else None


@cache
def _load_encoding(name: str) -> _Encoding:
    """30 to 70 MB and 40 to 80 ms each, so each is kept."""
    return cast("_Encoding", _bindings().tokenizer_for_encoding(name))


def _bindings() -> Any:
    """The compiled part of bpe_openai alone. The package's own __init__ fills tables in Python for encoding
    and decoding, which takes 1.2 s and 60 MB; counting needs none of it."""
    module_name = "bpe_openai._bindings"
    if module_name in sys.modules:
        return sys.modules[module_name]
    package = importlib.util.find_spec("bpe_openai")
    spec = PathFinder.find_spec(module_name, package.submodule_search_locations) if package else None
    if spec is None or spec.loader is None:
        raise ConfigurationError(
            "Counting the tokens of this model needs its encoding: pip install 'embedmill[openai]', or name a"
            " tokenizer.json as the pipeline's tokenizer."
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # a compiled module can be made once in a process
    spec.loader.exec_module(module)
    return module


def _in_batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        if batch and characters + len(text) > _CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
        batch.append(text)
        characters += len(text)
    if batch:
        yield batch


def _without_surrogates(text: str) -> str:
    """Half a surrogate pair is no text and has no tokens of its own: counted as a question mark."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text
