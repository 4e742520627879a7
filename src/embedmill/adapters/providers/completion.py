"""Fills in what is known of a model at the moment a pipeline is made. Owns the defaults of a new pipeline's
spec; an adapter uses a spec as it stands."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec

from embedmill.adapters.providers.catalog import facts_about, with_model_defaults
from embedmill.errors import ConfigurationError
from embedmill.ports import ProviderSpec


def complete_spec(spec: ProviderSpec, explicit: Collection[str], *, models_dir: Path | None) -> ProviderSpec:
    """The spec with its dimensions (0 stands for the model's own), parameters and prefixes. Raises
    ConfigurationError where the dimensions of a model are not known and not given."""
    spec = msgspec.structs.replace(
        spec, model=_absolute(spec.model) or spec.model, tokenizer=_absolute(spec.tokenizer)
    )
    if spec.provider == "local":
        native = _local_dimensions(spec.model, models_dir) if spec.dimensions == 0 else spec.dimensions
        return msgspec.structs.replace(spec, dimensions=native)
    if spec.dimensions == 0:
        facts = facts_about(spec.model)
        if facts is None:
            raise ConfigurationError(
                f"how many dimensions {spec.model!r} has is not known here: say --dimensions"
            )
        spec = msgspec.structs.replace(spec, dimensions=facts.dimensions)
    return with_model_defaults(spec, explicit)


def _absolute(name: str | None) -> str | None:
    """A folder or file as it is found from anywhere; a name stays as it is."""
    return str(Path(name).absolute()) if name and Path(name).exists() else name


def _local_dimensions(model: str, models_dir: Path | None) -> int:
    from embedmill.adapters.providers.models import find_model  # noqa: PLC0415 - may reach for the hub
    from embedmill.adapters.providers.sentence_model import read_sentence_model  # noqa: PLC0415

    return read_sentence_model(find_model(model, models_dir).folder).dimensions
