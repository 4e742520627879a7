"""One model, loaded: texts to token ids, ids to vectors, in the calling thread. Owns the tokenizer and the
ONNX Runtime sessions; knows no event loop, no pool and no ports. Its methods may be called from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedmill.adapters.providers.onnx_graph import INPUT, OUTPUT, EncoderGraph, build_graph
from embedmill.adapters.providers.safetensors import read_tensors
from embedmill.adapters.providers.sentence_model import SentenceModel
from embedmill.errors import (
    BadResponseError,
    ConfigurationError,
    InputRejectedError,
    ProviderUnavailableError,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

QUICK_RUNS = 16


class OnnxEngine:
    """Holds up to two sessions on the same mapped weights, which cost no memory of their own.

    The quick one uses the weights as they lie in the file: it stands in 20 ms, which is what a process that
    embeds one query wants. The packed one rearranges them first (60 ms and half the file in memory) and then
    runs short texts twice as fast. It is made when documents come, or the seventeenth query.
    """

    def __init__(self, model: SentenceModel, tokenizer: Tokenizer, graph: EncoderGraph) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self._graph = graph
        self._lock = threading.Lock()
        self._quick: Any = None
        self._packed: Any = None
        self._quick_runs = 0
        self._runtime_errors = runtime_errors()

    @classmethod
    def load(cls, model: SentenceModel) -> OnnxEngine:
        """Raises ConfigurationError where ONNX Runtime is missing or the model cannot be run."""
        graph = build_graph(model, read_tensors(model.folder))
        tokenizer = load_tokenizer(model.folder)
        if tokenizer.get_vocab_size() > graph.vocabulary:
            raise ConfigurationError(
                f"The tokenizer in {model.folder} knows {tokenizer.get_vocab_size()} tokens and the weights"
                f" {graph.vocabulary}: they are not of the same model; fetch it anew."
            )
        tokenizer.enable_truncation(max_length=model.max_tokens)
        return cls(model, tokenizer, graph)

    def prepare(self, *, quick: bool) -> None:
        """Make the session that a first run of this kind needs."""
        self._session(quick=quick)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, cut off at the model's limit."""
        if self.model.lowercase:
            texts = [text.lower() for text in texts]
        try:
            encodings = self._tokenizer.encode_batch_fast(texts)
        except (TypeError, UnicodeEncodeError) as error:
            raise InputRejectedError(f"An input is not valid text (a lone surrogate?): {error}") from error
        ids: list[list[int]] = [encoding.ids for encoding in encodings]
        if not all(ids):
            raise InputRejectedError("An input has no tokens in this model, so it has no vector.")
        return ids

    def run(self, ids: NDArray[np.int64], *, quick: bool = False) -> NDArray[np.float32]:
        """Vectors of a batch whose texts have equally many tokens: (texts, tokens) to (texts, dimensions)."""
        session = self._session(quick=quick)
        try:
            vectors: NDArray[np.float32] = session.run([OUTPUT], {INPUT: ids})[0]
        except self._runtime_errors as error:
            raise ProviderUnavailableError(
                f"The local engine failed on {ids.shape} tokens: {error}"
            ) from error
        if not np.isfinite(vectors).all():
            raise BadResponseError(
                f"The model in {self.model.folder} answered with numbers that are not finite."
            )
        return vectors

    def _session(self, *, quick: bool) -> Any:
        if self._packed is not None:
            return self._packed
        with self._lock:
            self._quick_runs += quick
            if quick and self._quick_runs <= QUICK_RUNS:
                self._quick = self._quick or self._open_session(packed=False)
                return self._quick
            self._packed = self._packed or self._open_session(packed=True)
            self._quick = None
            return self._packed

    def _open_session(self, *, packed: bool) -> Any:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        # The parallelism is ours, over whole batches: it scales better than splitting each operator.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # The graph is written with the fused operators already; searching for fusions takes time only.
        level = onnxruntime.GraphOptimizationLevel
        folding = self._graph.needs_folding
        options.graph_optimization_level = level.ORT_ENABLE_BASIC if folding else level.ORT_DISABLE_ALL
        # Both of these remember buffers for each shape seen, and shapes vary with every batch: memory would
        # grow with them, for no speed that could be measured.
        options.enable_mem_pattern = options.enable_cpu_mem_arena = False
        options.log_severity_level = 4  # what goes wrong is raised; nothing is printed
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self._graph.weights_folder)
        )
        options.add_session_config_entry("session.disable_prepacking", "0" if packed else "1")
        try:
            return onnxruntime.InferenceSession(
                self._graph.model, options, providers=["CPUExecutionProvider"]
            )
        except self._runtime_errors as error:
            raise ConfigurationError(f"ONNX Runtime cannot load {self.model.folder}: {error}") from error


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder, without the padding and truncation that its file may ask for: that of
    all-MiniLM-L6-v2 says 128 tokens where the model takes 256."""
    from tokenizers import Tokenizer  # noqa: PLC0415

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ConfigurationError(
            f"{folder} has no tokenizer.json: save its tokenizer in that format (transformers does)."
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        # The binding raises Exception itself, for any fault in the file.
        raise ConfigurationError(f"{path} cannot be read ({error}); fetch the model anew.") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def import_onnxruntime() -> Any:
    try:
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            "The local model needs ONNX Runtime: pip install 'embedmill[local]', or use the openai provider."
        ) from error
    return onnxruntime


def runtime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises; its classes have no common base but Exception."""
    import_onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415

    names = ("Fail", "InvalidArgument", "NoSuchFile", "EngineError", "RuntimeException", "InvalidProtobuf",
             "NotImplemented", "InvalidGraph", "EPFail")  # fmt: skip
    return (MemoryError, *(getattr(state, name) for name in names))
