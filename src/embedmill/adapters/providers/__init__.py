"""Providers by name. Owns the choice of the class for a spec; each is imported only when it is wanted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from embedmill.errors import ConfigurationError
from embedmill.ports import EmbeddingProvider, ProviderSpec


class _Surroundings:
    """What a builder may need besides the spec."""

    def __init__(self, api_key: str | None, models_dir: Path | None, threads: int | None) -> None:
        self.api_key = api_key
        self.models_dir = models_dir
        self.threads = threads


def _openai(spec: ProviderSpec, surroundings: _Surroundings) -> EmbeddingProvider:
    from embedmill.adapters.providers.openai import OpenAIProvider  # noqa: PLC0415  # httpx2 only where it is wanted

    return OpenAIProvider(spec, api_key=surroundings.api_key)


def _local(spec: ProviderSpec, surroundings: _Surroundings) -> EmbeddingProvider:
    from embedmill.adapters.providers.local import LocalProvider  # noqa: PLC0415  # onnxruntime likewise

    return LocalProvider(spec, threads=surroundings.threads, models_dir=surroundings.models_dir)


BUILDERS: dict[str, Callable[[ProviderSpec, _Surroundings], EmbeddingProvider]] = {
    "local": _local,
    "openai": _openai,
}


def build_provider(
    spec: ProviderSpec, *, api_key: str | None, models_dir: Path | None, threads: int | None
) -> EmbeddingProvider:
    """The provider that a spec names. Raises ConfigurationError for a name nobody knows, and for a spec
    with which its provider cannot work."""
    builder = BUILDERS.get(spec.provider)
    if builder is None:
        raise ConfigurationError(
            f"there is no provider {spec.provider!r}; there are: {', '.join(sorted(BUILDERS))}"
        )
    return builder(spec, _Surroundings(api_key, models_dir, threads))
