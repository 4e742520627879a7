"""The encoders we run, written as ONNX graphs. Owns the mathematics from token ids to sentence vectors and
the names of the weights; must not open the weights or ONNX Runtime.

One graph takes any batch whose texts have equally many tokens: there is no padding, hence no mask, and
pooling is a plain mean. Weights stay in their safetensors file, to which the graph points.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedmill.adapters.providers import onnx_wire
from embedmill.adapters.providers.onnx_wire import CONTRIB, GraphWriter
from embedmill.adapters.providers.safetensors import StoredTensor
from embedmill.adapters.providers.sentence_model import SentenceModel
from embedmill.errors import ConfigurationError

INPUT, OUTPUT = "ids", "vectors"

_ELEMENT_TYPES = {"F32": onnx_wire.FLOAT32, "F16": onnx_wire.FLOAT16, "BF16": onnx_wire.BFLOAT16}
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


class EncoderGraph(msgspec.Struct, frozen=True):
    """`model` is the ONNX file; its weights lie below `weights_folder`. `needs_folding`: weights of half
    precision are cast to float32 in the graph, which ONNX Runtime should do once, at loading.

    Input: `ids`, int64, (texts, tokens). Output: `vectors`, float32, (texts, dimensions).
    """

    model: bytes
    weights_folder: Path
    vocabulary: int
    needs_folding: bool


class _Names(msgspec.Struct, frozen=True):
    """What an architecture calls its weights; `{}` is the number of the layer."""

    layer: str = "encoder.layer.{}."
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attention_out: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    out_norm: str = "output.LayerNorm"
    token_types: bool = True


_BERT = _Names()
_NAMES = {
    "distilbert": _Names(
        layer="transformer.layer.{}.",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_out="attention.out_lin",
        attention_norm="sa_layer_norm",
        up="ffn.lin1",
        down="ffn.lin2",
        out_norm="output_layer_norm",
        token_types=False,
    ),
    "mpnet": _Names(
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        attention_out="attention.attn.o",
        attention_norm="attention.LayerNorm",
        token_types=False,
    ),
}

# A checkpoint saved with a head has its encoder below one of these.
_PREFIXES = ("", "bert.", "roberta.", "distilbert.", "mpnet.", "model.")


def build_graph(model: SentenceModel, tensors: Mapping[str, StoredTensor]) -> EncoderGraph:
    """Write the graph of a model. Raises ConfigurationError where a weight is missing or misshapen."""
    return _Builder(model, tensors).build()


def mpnet_buckets(tokens: int) -> NDArray[np.int64]:
    """The bucket of each pair of positions, (tokens, tokens): exact up to 7 apart, then ever wider, as T5 has
    it and in the same float32 steps, for a rounding at a bucket's edge would show in the vectors."""
    positions = np.arange(tokens)
    distance = positions[:, None] - positions[None, :]
    far = np.abs(distance)
    wide = (
        np.log(np.maximum(far, 8).astype(np.float32) / np.float32(8))
        / np.float32(math.log(16))
        * np.float32(8)
    )
    bucket = np.where(far < 8, far, np.minimum(8 + wide.astype(np.int64), 15))
    buckets: NDArray[np.int64] = (bucket + np.where(distance < 0, 16, 0)).astype(np.int64)
    return buckets


class _Builder:
    def __init__(self, model: SentenceModel, tensors: Mapping[str, StoredTensor]) -> None:
        self._model = model
        self._names = _NAMES.get(model.architecture, _BERT)
        self._tensors = tensors
        self._prefix = self._find_prefix()
        folders = {tensor.path.parent for tensor in tensors.values()}
        self._weights_folder = Path(os.path.commonpath(folders))
        self._graph = GraphWriter(model.architecture)
        self._needs_folding = False

    def build(self) -> EncoderGraph:
        """The story from ids to vectors. Between the layers the hidden states are (texts * tokens, size)."""
        self._write_shapes()
        hidden = self._embeddings()
        bias = self._relative_attention_bias() if self._model.architecture == "mpnet" else ""
        for number in range(self._model.layers):
            hidden = self._layer(number, hidden, bias)
        self._pool(self._graph.node("Reshape", [hidden, "shape_3d"], "last_hidden"))
        dimensions = self._model.dimensions
        return EncoderGraph(
            model=self._graph.model(
                inputs=[(INPUT, onnx_wire.INT64, ["texts", "tokens"])],
                outputs=[(OUTPUT, onnx_wire.FLOAT32, ["texts", dimensions])],
            ),
            weights_folder=self._weights_folder,
            vocabulary=self._tensor("embeddings.word_embeddings.weight").shape[0],
            needs_folding=self._needs_folding,
        )

    def _write_shapes(self) -> None:
        graph = self._graph
        for name, numbers in {
            "zero": [0],
            "one": [1],
            "two": [2],
            "size": [self._model.dimensions],
            "shape_2d": [-1, self._model.dimensions],
        }.items():
            graph.constant(name, np.array(numbers, dtype=np.int64))
        graph.node("Shape", [INPUT], "input_shape")
        graph.node("Slice", ["input_shape", "one", "two"], "tokens")
        graph.node("Concat", ["input_shape", "size"], "shape_3d", axis=0)

    def _embeddings(self) -> str:
        graph, size = self._graph, self._model.dimensions
        words = self._tensor("embeddings.word_embeddings.weight")
        # Cast after the look-up: the table is most of a small model, and a batch needs a few rows of it.
        word = self._stored("embeddings.word_embeddings.weight", (words.shape[0], size), cast=False)
        total = self._float32(graph.node("Gather", [word, INPUT], "words"), words.dtype)
        positions = self._stored(
            "embeddings.position_embeddings.weight",
            (self._model.max_tokens, size),
            first_row=self._model.first_position,
        )
        position = graph.node("Slice", [positions, "zero", "tokens"], "positions")
        total = graph.node("Add", [total, position], "words_and_positions")
        if self._names.token_types:
            # A single text is of type 0 throughout: of that table only the first row is used.
            token_type = self._stored("embeddings.token_type_embeddings.weight", (1, size))
            total = graph.node("Add", [total, token_type], "embedded")
        flat = graph.node("Reshape", [total, "shape_2d"], "embedded_flat")
        return self._norm("embeddings.LayerNorm", flat)

    def _layer(self, number: int, hidden: str, bias: str) -> str:
        names, graph = self._names, self._graph
        layer = names.layer.format(number)
        size, inner = self._model.dimensions, self._tensor(f"{layer}{names.up}.weight").shape[0]
        parts = [
            graph.node(
                "Reshape", [self._linear(layer + part, hidden, size, size), "shape_3d"], f"{layer}{part}.3d"
            )
            for part in (names.query, names.key, names.value)
        ]
        attended = graph.node(
            "MultiHeadAttention",
            [*parts, "", "", bias] if bias else parts,
            f"{layer}attended",
            domain=CONTRIB,
            num_heads=self._model.heads,
        )
        flat = graph.node("Reshape", [attended, "shape_2d"], f"{layer}attended_flat")
        mixed = self._linear(layer + names.attention_out, flat, size, size)
        hidden = self._norm(layer + names.attention_norm, graph.node("Add", [mixed, hidden], f"{layer}mixed"))
        up = self._linear(layer + names.up, hidden, size, inner)
        down = self._linear(layer + names.down, self._activate(up), inner, size)
        return self._norm(layer + names.out_norm, graph.node("Add", [down, hidden], f"{layer}out"))

    def _pool(self, hidden: str) -> None:
        """(texts, tokens, size) to (texts, size)."""
        graph = self._graph
        pooled = "pooled" if self._model.normalise else OUTPUT
        if self._model.pooling == "cls":
            first = graph.node("Slice", [hidden, "zero", "one", "one"], "first_token")
            graph.node("Squeeze", [first, "one"], pooled)
        else:
            operator = "ReduceMean" if self._model.pooling == "mean" else "ReduceMax"
            graph.node(operator, [hidden], pooled, axes=[1], keepdims=0)
        if self._model.normalise:
            graph.node("LpNormalization", [pooled], OUTPUT, axis=1, p=2)

    def _relative_attention_bias(self) -> str:
        """MPNet's bias by distance, (1, heads, tokens, tokens), the same in all layers."""
        table = self._stored("encoder.relative_attention_bias.weight", (32, self._model.heads))
        graph = self._graph
        graph.constant("buckets", mpnet_buckets(self._model.max_tokens))
        graph.constant("bucket_axes", np.array([0, 1], dtype=np.int64))
        graph.constant("two_zeros", np.array([0, 0], dtype=np.int64))
        graph.node("Concat", ["tokens", "tokens"], "tokens_twice", axis=0)
        graph.node("Slice", ["buckets", "two_zeros", "tokens_twice", "bucket_axes"], "distances")
        graph.node("Gather", [table, "distances"], "bias_by_pair")
        graph.node("Transpose", ["bias_by_pair"], "bias_by_head", perm=[2, 0, 1])
        return graph.node("Unsqueeze", ["bias_by_head", "zero"], "attention_bias")

    def _linear(self, name: str, hidden: str, inputs: int, outputs: int) -> str:
        weight = self._stored(f"{name}.weight", (outputs, inputs))
        bias = self._stored(f"{name}.bias", (outputs,))
        return self._graph.node("Gemm", [hidden, weight, bias], f"{name}.out", transB=1)

    def _norm(self, name: str, hidden: str) -> str:
        size = (self._model.dimensions,)
        # Checkpoints that came from TensorFlow say gamma and beta.
        old = f"{self._prefix}{name}.weight" not in self._tensors
        scale = self._stored(f"{name}.{'gamma' if old else 'weight'}", size)
        shift = self._stored(f"{name}.{'beta' if old else 'bias'}", size)
        # Measured: Add and this are a fifth faster, over the whole model, than SkipLayerNormalization.
        return self._graph.node(
            "LayerNormalization", [hidden, scale, shift], f"{name}.out", axis=-1, epsilon=self._model.epsilon
        )

    def _activate(self, hidden: str) -> str:
        operator = self._model.activation
        domain = "" if operator == "Relu" else CONTRIB
        return self._graph.node(operator, [hidden], f"{hidden}.active", domain=domain)

    def _stored(self, name: str, shape: tuple[int, ...], *, first_row: int = 0, cast: bool = True) -> str:
        """A weight of this shape: the tensor, or as many of its rows, beginning with `first_row`."""
        tensor = self._tensor(name)
        fits = tensor.shape == shape or (
            len(shape) == 2 and tensor.shape[1:] == shape[1:] and tensor.shape[0] >= first_row + shape[0]
        )
        if not fits:
            raise ConfigurationError(
                f"{tensor.path} does not fit its config.json: {name} has the shape {tensor.shape},"
                f" not {shape}."
            )
        if tensor.dtype not in _ELEMENT_TYPES:
            raise ConfigurationError(
                f"The weights in {tensor.path} are of type {tensor.dtype}; the local engine reads F32, F16"
                " and BF16: save the model in one of these."
            )
        item_bytes = _ITEM_BYTES[tensor.dtype]
        row_bytes = item_bytes * int(np.prod(shape[1:])) if len(shape) == 2 else 0
        stored = self._graph.stored(
            name,
            shape,
            _ELEMENT_TYPES[tensor.dtype],
            tensor.path.relative_to(self._weights_folder).as_posix(),
            tensor.offset + first_row * row_bytes,
            item_bytes * int(np.prod(shape)),
        )
        return self._float32(stored, tensor.dtype) if cast else stored

    def _float32(self, value: str, dtype: str) -> str:
        if dtype == "F32":
            return value
        self._needs_folding = True
        return self._graph.node("Cast", [value], f"{value}.float32", to=onnx_wire.FLOAT32)

    def _find_prefix(self) -> str:
        wanted = "embeddings.word_embeddings.weight"
        for prefix in _PREFIXES:
            if prefix + wanted in self._tensors:
                return prefix
        raise ConfigurationError(f"The weights in {self._model.folder} lack {wanted}; fetch the model anew.")

    def _tensor(self, name: str) -> StoredTensor:
        tensor = self._tensors.get(self._prefix + name)
        if tensor is None:
            raise ConfigurationError(
                f"The weights in {self._model.folder} lack {name}; fetch the model anew."
            )
        return tensor
