"""What a sentence-transformers folder says about its model. Owns the reading of its small JSON files and the
answer to "can we run this?"; touches neither weights nor tokenizer.

A model we would run otherwise than sentence-transformers does is refused here, in a sentence, and never
approximated.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from embedmill.errors import ConfigurationError

POOLINGS = ("mean", "cls", "max")
ACTIVATIONS = {"gelu": "Gelu", "gelu_new": "FastGelu", "gelu_pytorch_tanh": "FastGelu", "relu": "Relu"}
"""Names of the activation in a config, and the operator that computes it."""

_POSITIONS_AFTER_PADDING = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})
SUPPORTED = frozenset({"bert", "distilbert"}) | _POSITIONS_AFTER_PADDING

T = TypeVar("T")


class SentenceModel(msgspec.Struct, frozen=True):
    """All that decides the graph and the tokenizer of a model; sizes in numbers, not in bytes.

    `first_position` is the row of the position table that the first token takes. `max_tokens` counts the
    special tokens. `prompts` go before the text, by the name of the prompt.
    """

    folder: Path
    architecture: str
    layers: int
    dimensions: int
    heads: int
    activation: str
    epsilon: float
    first_position: int
    max_tokens: int
    pooling: str
    normalise: bool
    lowercase: bool
    prompts: dict[str, str]


class _Config(msgspec.Struct):
    """config.json; DistilBERT has names of its own for the same sizes."""

    model_type: str = ""
    num_hidden_layers: int = 0
    n_layers: int = 0
    hidden_size: int = 0
    dim: int = 0
    num_attention_heads: int = 0
    n_heads: int = 0
    hidden_act: str = ""
    activation: str = ""
    layer_norm_eps: float = 1e-12
    max_position_embeddings: int = 0
    pad_token_id: int | None = None
    position_embedding_type: str | None = "absolute"
    is_decoder: bool = False


class _Module(msgspec.Struct):
    type: str
    path: str = ""


class _Pooling(msgspec.Struct):
    """Older releases have a flag for each mode, newer ones one name (or several) in `pooling_mode`."""

    pooling_mode: str | list[str] | None = None
    pooling_mode_cls_token: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False
    include_prompt: bool = True

    def modes(self) -> list[str]:
        if self.pooling_mode is not None:
            return [self.pooling_mode] if isinstance(self.pooling_mode, str) else self.pooling_mode
        flags = {
            "cls": self.pooling_mode_cls_token,
            "mean": self.pooling_mode_mean_tokens,
            "max": self.pooling_mode_max_tokens,
            "mean_sqrt_len_tokens": self.pooling_mode_mean_sqrt_len_tokens,
            "weightedmean": self.pooling_mode_weightedmean_tokens,
            "lasttoken": self.pooling_mode_lasttoken,
        }
        return [mode for mode, is_set in flags.items() if is_set] or ["mean"]


class _SentenceConfig(msgspec.Struct):
    max_seq_length: int | None = None
    do_lower_case: bool = False


class _TokenizerConfig(msgspec.Struct):
    # Models without a limit say 1e30, as an integer too long for 64 bits or as a float.
    model_max_length: float | None = None


class _Prompts(msgspec.Struct):
    prompts: dict[str, str | None] = {}


def read_sentence_model(folder: Path) -> SentenceModel:
    """Read a model's folder. Raises ConfigurationError for one that is incomplete or that we cannot run."""
    config = _read(folder / "config.json", _Config)
    _check_architecture(folder, config)
    pooling, normalise = _read_modules(folder)
    sentence = _read(folder / "sentence_bert_config.json", _SentenceConfig, _SentenceConfig())
    prompts = _read(folder / "config_sentence_transformers.json", _Prompts, _Prompts()).prompts
    given = {name: text for name, text in prompts.items() if text}
    if given and not pooling.include_prompt:
        raise _unsupported(folder, "it leaves its prompt out of the pooling")
    return SentenceModel(
        folder=folder,
        architecture=config.model_type,
        layers=config.num_hidden_layers or config.n_layers,
        dimensions=config.hidden_size or config.dim,
        heads=config.num_attention_heads or config.n_heads,
        activation=ACTIVATIONS[config.hidden_act or config.activation or "gelu"],
        epsilon=1e-12 if config.model_type == "distilbert" else config.layer_norm_eps,
        first_position=_first_position(config),
        max_tokens=_max_tokens(folder, config, sentence),
        pooling=pooling.modes()[0],
        normalise=normalise,
        lowercase=sentence.do_lower_case,
        prompts=given,
    )


def lowercases(folder: Path) -> bool:
    """Whether the model wants its texts in lower case before its tokenizer sees them."""
    return _read(folder / "sentence_bert_config.json", _SentenceConfig, _SentenceConfig()).do_lower_case


def _check_architecture(folder: Path, config: _Config) -> None:
    if config.model_type not in SUPPORTED:
        raise _unsupported(
            folder, f"its architecture is {config.model_type!r}, not one of {', '.join(sorted(SUPPORTED))}"
        )
    sizes = (
        config.num_hidden_layers or config.n_layers,
        config.hidden_size or config.dim,
        config.num_attention_heads or config.n_heads,
        config.max_position_embeddings - _first_position(config),
    )
    if min(sizes) < 1 or sizes[1] % sizes[2]:
        raise ConfigurationError(f"{folder / 'config.json'} gives impossible sizes; fetch the model anew.")
    if config.is_decoder or config.position_embedding_type not in (None, "absolute"):
        raise _unsupported(folder, "it is a decoder or has relative positions")
    activation = config.hidden_act or config.activation or "gelu"
    if activation not in ACTIVATIONS:
        raise _unsupported(folder, f"its activation is {activation!r}")


def _read_modules(folder: Path) -> tuple[_Pooling, bool]:
    """The modules after the encoder: a pooling, then perhaps a normalisation, and nothing else."""
    modules = _read(folder / "modules.json", list[_Module])
    kinds = [module.type.rsplit(".", 1)[-1] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise _unsupported(folder, f"it is made of {', '.join(kinds)}")
    if modules[0].path:
        raise _unsupported(folder, f"its encoder lies in {modules[0].path!r} instead of beside modules.json")
    pooling = _read(folder / modules[1].path / "config.json", _Pooling)
    if len(pooling.modes()) != 1 or pooling.modes()[0] not in POOLINGS:
        raise _unsupported(folder, f"it pools by {' and '.join(pooling.modes())}")
    return pooling, len(kinds) == 3


def _first_position(config: _Config) -> int:
    if config.model_type not in _POSITIONS_AFTER_PADDING:
        return 0
    return 1 + (1 if config.pad_token_id is None else config.pad_token_id)


def _max_tokens(folder: Path, config: _Config, sentence: _SentenceConfig) -> int:
    """As sentence-transformers decides it, and never more than the table has positions."""
    positions = config.max_position_embeddings - _first_position(config)
    if sentence.max_seq_length is not None:
        limit: float = sentence.max_seq_length
    else:
        tokenizer = _read(folder / "tokenizer_config.json", _TokenizerConfig, _TokenizerConfig())
        limit = positions if tokenizer.model_max_length is None else tokenizer.model_max_length
    if limit < 1:
        raise ConfigurationError(f"{folder} limits its inputs to {limit} tokens; fetch the model anew.")
    return int(min(limit, positions))


def _read(path: Path, kind: type[T], default: T | None = None) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError as error:
        if default is not None:
            return default
        raise ConfigurationError(
            f"{path} is missing: {path.parent} is not the folder of a sentence-transformers model."
        ) from error
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read ({error}); fetch the model anew.") from error


def _unsupported(folder: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"The local engine cannot run the model in {folder}: {why}. Choose another model, or serve this one"
        " (Text Embeddings Inference, vLLM, Ollama) and use the openai provider."
    )
